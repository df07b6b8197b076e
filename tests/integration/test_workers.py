"""Workers as the ledger sees them, from the first report to the last."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, update

from backend.db import db_now, transaction
from backend.jobs.models import Worker
from backend.ops import doctor
from tests.integration import probes
from tests.integration.stack import Stack, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

BROKERS = [
    "valkey",
    pytest.param("rabbitmq-server", marks=pytest.mark.needs("rabbitmq-server", "epmd")),
]


@pytest.fixture(params=BROKERS)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A broker and beat; the tests start the workers."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        stack = Stack(Path(folder), "", request.param)
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
    ("remapped", "number"),
    [
        pytest.param("SIGQUIT", signal.SIGTERM, id="as-deployed"),
        pytest.param("", signal.SIGTERM, id="sigterm"),
        pytest.param("", signal.SIGQUIT, id="sigquit"),
    ],
)
def test_a_worker_that_is_told_to_end_signs_off(
    stack: Stack, remapped: str, number: signal.Signals
) -> None:
    start(stack, "default", REMAP_SIGTERM=remapped)
    stack.assert_done_once(stack.submit(probes.nap, seconds=0.0))
    assert known(stack) == ["default"]
    stack.programs["default"].send_signal(number)
    stack.programs["default"].wait(20)

    assert known(stack) == []


def test_a_worker_that_was_killed_is_told_of(stack: Stack) -> None:
    start(stack, "default")
    stack.kill("default")
    assert known(stack) == ["default"]
    with stack.app.app_context():
        with transaction() as session:
            session.execute(update(Worker).values(seen_at=db_now(-61)))
        told = [problem for problem, _ in doctor.workers()]

    assert len(told) == 1
    assert "it was killed, or its machine is away" in told[0]
