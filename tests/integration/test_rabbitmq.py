"""What RabbitMQ does to its consumers, and Redis does not."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture
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
