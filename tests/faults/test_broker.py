"""Redis or Valkey killed, frozen, emptied, full, and sending the same or nonsense."""

import json
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from backend.jobs import Queue
from backend.jobs.broker import TASK
from tests.faults.bench import Bench, elapsed, until
from tests.integration import probes
from tests.integration.stack import Person

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

Gate = Callable[..., UUID]
Begun = Callable[..., int]
Go = Callable[[], None]

PDF = Path(__file__).parents[1] / "fixtures/pdf/form.pdf"
RECOVERY = 20  # seconds for kombu to come back and the steward to ring


@pytest.fixture
def person(bench: Bench) -> Person:
    """Somebody signed in, with a web that is warm, as it is in real life."""
    person = bench.sign_in()
    for _ in range(4):
        bench.wait_for(send_pdf(bench, person)[1], "succeeded")
    return person


def send_pdf(bench: Bench, person: Person) -> tuple[httpx.Response, UUID]:
    files = [("files", ("form.pdf", PDF.read_bytes(), "application/pdf"))]
    answer = person.http.post("/api/compress/bulk", files=files)
    job_id = UUID(answer.json()["job_id"])
    bench.accepted.add(job_id)
    return answer, job_id


@pytest.mark.row(7)
def test_a_broker_that_is_killed_loses_no_job_and_doubles_none(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    begun()
    waiting = [bench.submit(probes.nap, seconds=0.0) for _ in range(5)]
    delayed = bench.submit(probes.flaky, failures=1)
    with bench.killed("broker"):
        go()
        bench.assert_done_once(job_id)

    bench.assert_done_once(*waiting, delayed, seconds=RECOVERY)
    assert len(bench.attempts(job_id)) == 1


@pytest.mark.row(7)
def test_a_broker_killed_as_a_job_ends_takes_no_worker_along(bench: Bench) -> None:
    for _ in range(2):
        bench.assert_done_once(bench.submit(probes.nap, seconds=0.0), seconds=RECOVERY)
        with bench.killed("broker"):
            pass

    bench.assert_done_once(bench.submit(probes.nap, seconds=0.0), seconds=RECOVERY)
    assert not bench.ended()


@pytest.mark.row(8)
@pytest.mark.named_times
def test_a_backlog_that_the_broker_forgets_runs_within_the_reconcile_period(
    bench: Bench, gate: Gate, begun: Begun, go: Go, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    busy = [gate(), bench.submit(probes.gate, folder=str(other))]
    until(lambda: (other / "begun-1").exists() and begun(), "every slot is busy")
    backlog = [bench.submit(probes.nap, seconds=0.0) for _ in range(20)]
    depths = bench.app.extensions["sluice.broker_depths"]
    until(lambda: depths()["default"] >= 15, "the messages are there")
    bench.flush_broker()
    go()
    (other / "go").touch()

    bench.assert_done_once(*busy, *backlog, seconds=10)


@pytest.mark.row(9)
def test_work_is_accepted_within_a_second_while_the_broker_is_down(
    bench: Bench, person: Person
) -> None:
    with bench.killed("broker"):
        sent = [elapsed(lambda: send_pdf(bench, person)) for _ in range(3)]
        for took, (answer, _) in sent:
            assert answer.status_code == 202
            assert took < 1.0

    for _, (_, job_id) in sent:
        bench.wait_for(job_id, "succeeded", seconds=RECOVERY)


@pytest.mark.row(10)
def test_work_is_accepted_within_a_second_and_a_half_while_the_broker_is_frozen(
    bench: Bench, person: Person
) -> None:
    with bench.frozen("broker"):
        sent = [elapsed(lambda: send_pdf(bench, person)) for _ in range(3)]
        for took, (answer, _) in sent:
            assert answer.status_code == 202
            assert took < 1.5

    for _, (_, job_id) in sent:
        bench.wait_for(job_id, "succeeded", seconds=RECOVERY)


@pytest.mark.row(11)
def test_work_is_accepted_while_the_broker_is_full_and_readiness_says_why(
    bench: Bench, person: Person
) -> None:
    with bench.broker_full():
        took, (answer, job_id) = elapsed(lambda: send_pdf(bench, person))
        ready = httpx.get(f"{bench.url}/readyz", timeout=5)
        assert answer.status_code == 202
        assert took < 1.0
        assert ready.status_code == 503
        assert ready.json()["checks"]["broker"].startswith("out of memory")

    bench.wait_for(job_id, "succeeded", seconds=RECOVERY)
    assert not bench.ended()


@pytest.mark.row(12)
@pytest.mark.named_times
def test_a_cancel_takes_effect_within_a_heartbeat_while_the_broker_is_down(
    bench: Bench, gate: Gate, begun: Begun
) -> None:
    person = bench.sign_in()
    job_id = gate(owner_id=person.id)
    begun()
    with bench.killed("broker"):
        assert person.http.post(f"/api/jobs/{job_id}/cancel").status_code == 200
        bench.wait_for(job_id, "cancelled", seconds=bench.heartbeat)


@pytest.mark.row(14)
def test_a_message_that_comes_again_after_its_job_was_done_changes_nothing(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    begun()
    with bench.frozen("broker"):
        go()
        bench.assert_done_once(job_id)
        # The worker cannot have acknowledged it.
        bench.kill("default")
    bench.start("default")
    until(lambda: bench.has_reported("default"), "the worker is back", 40)
    bench.ring("default", job_id, times=3)

    bench.assert_done_once(job_id, bench.submit(probes.nap, seconds=0.0))
    assert len(bench.attempts(job_id)) == 1


@pytest.mark.row(17)
def test_the_same_message_fifty_times_is_one_run(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    bench.ring("default", job_id, times=50)
    begun()
    go()

    bench.assert_done_once(job_id)
    assert len(bench.attempts(job_id)) == 1
    assert len(bench.runs(job_id)) == 1


class Poison:
    """Were it ever unpickled, the worker would be gone."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.kill, (os.getppid(), signal.SIGKILL)


def message(body: str, content_type: str = "application/json") -> str:
    """A message as kombu puts it into a queue of Redis."""
    encoding = "binary" if content_type != "application/json" else "utf-8"
    return json.dumps(
        {
            "body": body,
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": {"lang": "py", "task": TASK, "id": uuid4().hex, "root_id": None},
            "properties": {
                "delivery_info": {"exchange": "", "routing_key": "default"},
                "delivery_tag": uuid4().hex,
                "delivery_mode": 2,
                "body_encoding": None,
            },
        }
    )


@pytest.mark.row(23)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param("no message at all", id="noise"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param("{}", id="empty"),
        pytest.param("[7]", id="list"),
        pytest.param(message("[[], {}, {}]"), id="no-id"),
        pytest.param(message('[["not an id"], {}, {}]'), id="foreign-id"),
        pytest.param(message(json.dumps([[uuid4().hex], {}, {}])), id="unknown-id"),
        pytest.param(message('[["' + "x" * 2**20 + '"], {}, {}]'), id="huge"),
        pytest.param(message('[["half'), id="torn"),
        pytest.param(
            message(pickle.dumps(Poison(), protocol=0).decode(), "application/x-python-serialize"),
            id="pickle",
        ),
    ],
)
def test_a_message_that_makes_no_sense_harms_no_worker(bench: Bench, body: str | bytes) -> None:
    bench.redis.lpush(Queue.DEFAULT, body)
    depths = bench.app.extensions["sluice.broker_depths"]
    until(lambda: depths()["default"] == 0, "the message is taken")

    bench.assert_done_once(*[bench.submit(probes.nap, seconds=0.0) for _ in range(4)], seconds=10)
    assert not bench.ended()


def changed(**parts: Any) -> str:
    """A doorbell of which something is otherwise; of a part that is a dict, these of its items."""
    whole = json.loads(message(json.dumps([[uuid4().hex], {}, {}])))
    for name, part in parts.items():
        key = name.replace("_", "-")
        whole[key] = {**whole[key], **part} if isinstance(part, dict) and part else part
    return json.dumps(whole)


BROKEN = {
    "deep": "[" * 100_000,
    "strange-types": '{"__type__": [], "__value__": 1}',
    "no-properties": changed(properties={}),
    "tag-list": changed(properties={"delivery_tag": []}),
    "headers-text": changed(headers="abc"),
    "headers-none": changed(headers=None),
    "task-list": changed(headers={"task": []}),
    "task-unknown": changed(headers={"task": "celery.chord"}),
    "id-list": changed(headers={"id": []}),
    "id-none": changed(headers={"id": None}),
    "shown-list": changed(headers={"argsrepr": [1]}),
    "compressed": changed(headers={"compression": "zlib"}),
    "body-number": changed(body=7),
    "body-none": changed(body=None),
    "body-empty": changed(body=""),
    "body-surrogate": changed(body="\ud800"),
    "body-deep": changed(body="[" * 100_000),
    "body-types": changed(body='[[{"__type__": "uuid", "__value__": 1}], {}, {}]'),
    "body-object": changed(body='{"args": []}'),
    "body-of-two": changed(body='[["x"], {}]'),
    "body-named": changed(body='[["x"], {"y": 1}, {}]'),
    "body-callbacks": changed(body='[["x"], {}, {"callbacks": [{"task": 7}]}]'),
    "number-base64": changed(body=7, properties={"body_encoding": "base64"}),
    "torn-base64": changed(body="abc", properties={"body_encoding": "base64"}),
    "unknown-codec": changed(properties={"body_encoding": "zip9"}),
    "codec-list": changed(properties={"body_encoding": []}),
    "content-type-unknown": changed(content_type="text/nonsense"),
    "content-type-list": changed(content_type=[]),
    "content-encoding-number": changed(content_encoding=7),
}
# Nothing of this is heard, so that they are doorbells as any.
ODD = {
    "content-encoding-unknown": changed(content_encoding="utf-9"),
    "origin-list": changed(properties={"delivery_info": []}),
    "eta": changed(headers={"eta": "2099-01-01T00:00:00"}),
    "eta-list": changed(headers={"eta": []}),
    "eta-number": changed(headers={"eta": 7}),
    "expires": changed(headers={"expires": "2001-01-01T00:00:00"}),
    "expires-object": changed(headers={"expires": {}}),
    "timelimit": changed(headers={"timelimit": [0.001, 0.001]}),
    "timelimit-text": changed(headers={"timelimit": "abc"}),
    "retries": changed(headers={"retries": "many"}),
    "stamps": changed(headers={"stamped_headers": [[]], "stamps": 7}),
    "shadow": changed(headers={"shadow": ["x"]}),
    "reply-to": changed(properties={"reply_to": {}, "correlation_id": []}),
    "priority": changed(properties={"priority": "x"}),
}


@pytest.mark.row(23)
def test_a_message_of_which_a_part_makes_no_sense_harms_no_worker(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    begun()
    before = bench.log_lines("default")
    for body in (*BROKEN.values(), *ODD.values()):
        bench.redis.lpush(Queue.DEFAULT, body)
    bench.assert_done_once(*[bench.submit(probes.nap, seconds=0.0) for _ in range(4)], seconds=10)
    depths = bench.app.extensions["sluice.broker_depths"]
    until(lambda: depths()["default"] == 0, "the messages are taken")
    go()

    bench.assert_done_once(job_id)
    assert len(bench.attempts(job_id)) == 1
    assert not bench.ended()
    told = bench.log_lines("default")[len(before) :]
    assert [line["event"] for line in told].count("message_dropped") == len(BROKEN)
    assert {line["level"] for line in told} <= {"info", "warning"}
