"""What RabbitMQ does to its consumers, and Redis does not."""

import json
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from amqp import Message
from kombu import Connection

from backend.jobs.broker import TASK
from tests.integration import probes
from tests.integration.stack import Stack, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.needs("rabbitmq-server", "epmd"),
]

# By default half an hour, which a slot that is never out of work takes for one message.
PATIENCE = "-rabbit consumer_timeout 2000 -rabbit channel_tick_interval 500"


@pytest.fixture
def impatient() -> Iterator[Stack]:
    """A worker of a RabbitMQ that hangs up on who has held a message for two seconds."""
    yield from running(RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=PATIENCE)


@pytest.fixture(scope="module")
def patient() -> Iterator[Stack]:
    """A worker of a RabbitMQ as it comes."""
    yield from running()


def running(**variables: str) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        stack = Stack(Path(folder), "", "rabbitmq-server")
        stack.data.mkdir()
        stack.migrate()
        stack.open_ledger()
        try:
            stack.start("epmd")
            stack.start("broker", **variables)
            stack.start("default", "beat")
            until(lambda: stack.has_reported("default"), "the worker is there", 40)
            yield stack
        finally:
            left = stack.stop()
            stack.close_ledger()
        assert left == []


def test_a_worker_that_the_broker_hangs_up_on_goes_on_with_its_job(
    impatient: Stack, tmp_path: Path
) -> None:
    job_id = impatient.submit(probes.gate, folder=str(tmp_path))
    until((tmp_path / "begun-1").exists, "it runs", 20)
    log = impatient.log("default")
    until(lambda: "PRECONDITION_FAILED" in log.read_text(), "the broker hangs up", 30)
    following = impatient.submit(probes.nap, seconds=0.0)
    impatient.assert_done_once(following)  # another slot, over the new connection
    (tmp_path / "go").touch()

    impatient.assert_done_once(job_id)
    assert len(impatient.attempts(job_id)) == 1
    assert not impatient.ended()


# ---------------------------------------------------------------- nonsense


def doorbell(body: str = "", **parts: Any) -> Message:
    """A doorbell as kombu sends it, with parts that are otherwise."""
    headers = {"lang": "py", "task": TASK, "id": uuid4().hex}
    properties = {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        **parts,
        "application_headers": headers | parts.get("application_headers", {}),
    }
    return Message(body or json.dumps([[uuid4().hex], {}, {}]), **properties)


class Raw(Message):
    """A doorbell with a header of these bytes: a type of AMQP's, and its value."""

    __slots__ = ("header",)

    def __init__(self, header: bytes) -> None:
        super().__init__(doorbell().body)
        self.header = b"\1x" + header

    def _serialize_properties(self) -> bytes:
        return struct.pack(">HI", 1 << 13, len(self.header)) + self.header


def nested(depth: int) -> bytes:
    """Tables in tables."""
    table = b""
    for _ in range(depth):
        table = b"F" + struct.pack(">I", len(table) + 2 * bool(table)) + (table and b"\1x" + table)
    return table


def test_a_message_that_makes_no_sense_harms_no_worker(patient: Stack) -> None:
    broken = [
        Message("no message at all"),
        Message(b""),
        Message(b"\xff\xfe", content_type="application/json"),
        doorbell(content_type=b"\xff\xfe"),
        doorbell(content_type="text/nonsense"),
        doorbell(type=b"\xff"),
        doorbell(application_headers={"task": []}),
        doorbell(application_headers={"task": "celery.chord"}),
        doorbell(application_headers={"id": 7}),
        doorbell(application_headers={"argsrepr": {}}),
        doorbell(application_headers={"compression": "zlib"}),
        Raw(b"T" + struct.pack(">Q", 2**60)),
        Raw(nested(5000)),
        doorbell("[" * 100_000),
        doorbell("[[]]"),
        doorbell('{"args": []}'),
        doorbell('[["x"], {}, {"callbacks": [{"task": 7}]}]'),
    ]
    odd = [
        doorbell(application_headers={"eta": []}),
        doorbell(application_headers={"expires": "2001-01-01T00:00:00"}),
        doorbell(application_headers={"timelimit": "abc"}),
        doorbell(application_headers={"stamped_headers": [{}], "stamps": 7}),
        doorbell(reply_to="nobody", correlation_id="x" * 200, priority=200, expiration="60000"),
    ]
    with Connection(patient.environment["CELERY_BROKER_URL"]) as link, link.channel() as channel:
        for message in (*broken, *odd):
            channel.basic_publish(message, routing_key="default")
    patient.assert_done_once(*[patient.submit(probes.nap, seconds=0.0) for _ in range(4)])
    depths = patient.app.extensions["sluice.broker_depths"]
    until(lambda: depths()["default"] == 0, "the messages are taken")

    told = patient.log_lines("default")
    assert [line["event"] for line in told].count("message_dropped") == len(broken)
    assert {line["level"] for line in told} <= {"info", "warning"}
    assert not patient.ended()


# ---------------------------------------------------------------- away


def test_all_slots_run_jobs_after_the_broker_was_away(patient: Stack, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(4)]

    def run_two(*folders: Path) -> None:
        for folder in folders:
            folder.mkdir()
            patient.submit(probes.gate, folder=str(folder))
        until(lambda: all((each / "begun-1").exists() for each in folders), "two jobs run", 20)

    def end(*folders: Path) -> None:
        for folder in folders:
            (folder / "go").touch()
        until(patient.is_idle, "the jobs have ended")

    run_two(*folders[:2])
    patient.kill("broker")
    patient.start("broker")
    log = patient.log("default")
    until(lambda: log.read_text().count("Connected to amqp") == 2, "the worker is back", 40)
    end(*folders[:2])
    run_two(*folders[2:])
    end(*folders[2:])
