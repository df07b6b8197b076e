"""Workers as the ledger sees them, from the first report to the last."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select, update

from backend.db import db_now, transaction
from backend.jobs import Queue, pauses
from backend.jobs.acts import Actor
from backend.jobs.models import PauseScope, Worker
from backend.ops import doctor
from tests.integration import probes
from tests.integration.stack import Stack, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

BROKERS = [
    "valkey",
    pytest.param("rabbitmq-server", marks=pytest.mark.needs("rabbitmq-server", "epmd")),
]


@pytest.fixture(scope="module")
def ledger() -> Iterator[Stack]:
    """A broker and beat, for what does not depend on either; the tests start the workers."""
    yield from running("valkey")


@pytest.fixture(params=BROKERS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A broker and beat of each kind; the tests start the workers."""
    yield from running(request.param)


def running(broker: str) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        stack = Stack(Path(folder), "", broker)
        stack.data.mkdir()
        stack.migrate()
        stack.open_ledger()
        try:
            stack.start(*stack.broker_programs, "beat")
            yield stack
        finally:
            left = stack.stop()
            stack.close_ledger()
        assert left == []


def has_said(stack: Stack, word: str) -> bool:
    """Whether the default worker that was started last has a word in its log since it is ready."""
    said = stack.log("default").read_text()
    return said.rfind(word) > said.rfind("ready.")


def start(stack: Stack, *names: str, **variables: str) -> None:
    """Start workers, and wait until they are there."""
    stack.start(*names, **variables)
    for name in names:
        until(lambda name=name: stack.has_reported(name), f"{name} is there", 40)


def known(stack: Stack) -> list[str]:
    """The workers that the ledger knows."""
    with stack.ledger() as session:
        return [name.partition("@")[0] for name in session.scalars(select(Worker.name))]


# ---------------------------------------------------------------- signing off


@pytest.mark.parametrize(
    ("number", "remapped"),
    [(signal.SIGTERM, ""), (signal.SIGTERM, "SIGQUIT"), (signal.SIGQUIT, ""), (signal.SIGINT, "")],
)
def test_a_worker_that_is_told_to_end_signs_off(
    ledger: Stack, number: signal.Signals, remapped: str
) -> None:
    start(ledger, "default", REMAP_SIGTERM=remapped)
    ledger.assert_done_once(ledger.submit(probes.nap, seconds=0.0))
    assert known(ledger) == ["default"]
    ledger.programs["default"].send_signal(number)

    assert ledger.programs["default"].wait(20) == 0
    assert known(ledger) == []


def test_a_worker_that_is_told_to_end_while_it_is_woken_without_end_does(stack: Stack) -> None:
    """Wherever the signal finds it: each of its messages goes through many hands."""
    for _ in range(2):
        start(stack, "default")
        doorbell = stack.app.extensions["sluice.doorbell"]
        doorbell.ring(Queue.DEFAULT, [uuid4() for _ in range(1000)])
        stack.programs["default"].terminate()

        assert stack.programs["default"].wait(12) == 0


def test_a_worker_that_is_told_to_end_begins_nothing_more(ledger: Stack, tmp_path: Path) -> None:
    start(ledger, "default")
    for name in "abcd":
        (tmp_path / name).mkdir()
    gates = [ledger.submit(probes.gate, folder=str(tmp_path / name)) for name in "abcd"]
    until(lambda: len(list(tmp_path.glob("*/begun-1"))) == 2, "both slots run a job")
    ledger.programs["default"].terminate()
    until(lambda: has_said(ledger, "worker_ends"), "it has been told")
    for name in "abcd":
        (tmp_path / name / "go").touch()

    assert ledger.programs["default"].wait(12) == 0
    assert sorted(ledger.job(each).state for each in gates) == ["queued"] * 2 + ["succeeded"] * 2
    start(ledger, "default")
    ledger.assert_done_once(*gates)
    ledger.programs["default"].terminate()
    ledger.programs["default"].wait(12)


def test_a_worker_that_is_told_twice_ends_at_once_and_hands_its_jobs_back(
    ledger: Stack, tmp_path: Path
) -> None:
    start(ledger, "default", DEPLOY_GRACE_SECONDS="1000")
    job_id = ledger.submit(probes.gate, folder=str(tmp_path))
    until((tmp_path / "begun-1").exists, "it runs")
    ledger.programs["default"].terminate()
    until(lambda: has_said(ledger, "worker_ends"), "it has been told")
    ledger.programs["default"].terminate()

    assert ledger.programs["default"].wait(12) == 0
    assert ledger.job(job_id).state == "queued"
    assert [each.outcome for each in ledger.attempts(job_id)] == ["handed_back"]


def test_a_job_that_a_worker_has_not_heard_of_yet_is_handed_back_too(
    ledger: Stack, tmp_path: Path
) -> None:
    """Its slot begins it, and its word of that is not read before the worker is told to end."""
    start(ledger, "default", DEPLOY_GRACE_SECONDS="1")
    worker = ledger.programs["default"].pid
    slots = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    for each in slots:
        os.kill(int(each), signal.SIGSTOP)
    job_id = ledger.submit(probes.gate, folder=str(tmp_path))
    until(lambda: has_said(ledger, "received"), "the worker has taken the message")
    os.kill(worker, signal.SIGTERM)
    for each in slots:
        os.kill(int(each), signal.SIGCONT)

    assert ledger.programs["default"].wait(12) == 0
    assert ledger.job(job_id).state == "queued"


def test_a_worker_that_was_killed_is_told_of(ledger: Stack) -> None:
    start(ledger, "default")
    ledger.kill("default")
    assert known(ledger) == ["default"]
    with ledger.app.app_context():
        with transaction() as session:
            session.execute(update(Worker).values(seen_at=db_now(-61)))
        told = [problem for problem, _ in doctor.workers()]

    assert len(told) == 1
    assert "it was killed, or its machine is away" in told[0]


# ---------------------------------------------------------------- drained


def act(stack: Stack, does: Callable[..., object], name: str) -> None:
    """Drain a worker, or end that."""
    with stack.ledger() as session:
        full_name = session.scalars(select(Worker.name).where(Worker.name.startswith(f"{name}@")))
        does(Actor(by="test", via="command"), PauseScope.WORKER, full_name.one())


def assert_all_run_on(stack: Stack, name: str) -> None:
    """One job after another: each message wakes this worker, or nobody."""
    for _ in range(8):
        job_id = stack.submit(probes.nap, seconds=0.0)
        stack.assert_done_once(job_id, seconds=10)
        assert str(stack.job(job_id).worker).startswith(f"{name}@")


def test_a_drained_worker_leaves_the_messages_to_the_others(stack: Stack) -> None:
    start(stack, "default", "spare")
    stack.terminate("beat").wait(20)  # there is nobody to ring again
    act(stack, pauses.pause, "default")
    assert_all_run_on(stack, "spare")

    # Now it has ended its consumers; a new connection does not bring them back.
    logs = [stack.log(name) for name in ("default", "spare")]
    stack.kill("broker")
    stack.start("broker")
    back = lambda log: log.read_text().count('"Connected to ') == 2  # noqa: E731
    until(lambda: all(map(back, logs)), "the workers are back", 40)
    assert_all_run_on(stack, "spare")

    act(stack, pauses.pause, "spare")
    act(stack, pauses.resume, "default")
    assert_all_run_on(stack, "default")


def test_a_worker_that_is_drained_while_it_runs_a_job_takes_messages_again_afterwards(
    stack: Stack, tmp_path: Path
) -> None:
    start(stack, "default")
    stack.terminate("beat").wait(20)
    job_id = stack.submit(probes.gate, folder=str(tmp_path))
    until((tmp_path / "begun-1").exists, "it runs")
    act(stack, pauses.pause, "default")
    waiting = [stack.submit(probes.nap, seconds=0.0) for _ in range(4)]
    log = stack.log("default")
    until(lambda: "drained" in log.read_text(), "it has seen that it is drained")
    (tmp_path / "go").touch()
    stack.assert_done_once(job_id)
    assert {stack.job(each).state for each in waiting} == {"queued"}
    act(stack, pauses.resume, "default")

    stack.assert_done_once(*waiting)
