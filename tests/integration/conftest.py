"""Real stacks for tests of real processes."""

import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests import invariants
from tests.integration import gates
from tests.integration.stack import WORKERS, Stack, TimeIsOver, until

EMBEDDED, OUTGROWN, AMQP = "sqlite+valkey", "postgresql+redis", "postgresql+rabbitmq"
BROKERS = {EMBEDDED: "valkey", OUTGROWN: "redis-server", AMQP: "rabbitmq-server"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of a stack's logs with a failure."""
    report = yield
    stack = getattr(item, "funcargs", {}).get("stack")
    if report.failed and isinstance(stack, Stack):
        report.sections.append(("The stack's logs", stack.last_words()))
    return report


@pytest.fixture(
    scope="module",
    params=[
        EMBEDDED,
        pytest.param(OUTGROWN, marks=pytest.mark.needs("initdb", "pg_ctl", "redis-server")),
        pytest.param(AMQP, marks=pytest.mark.needs("initdb", "pg_ctl", "rabbitmq-server", "epmd")),
    ],
)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Everything running; in the end the ledger is sound, and nothing is left."""
    url = ""
    if request.param != EMBEDDED:
        url = request.getfixturevalue("postgresql").fresh_database()
    # Not pytest's own folder: the address of a unix socket has room for a hundred characters.
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        stack = Stack(Path(folder), url, BROKERS[request.param])
        stack.data.mkdir()
        stack.migrate()
        stack.open_ledger()
        try:
            stack.start(*stack.broker_programs, "web", *WORKERS, "beat")
            try:
                until(stack.ready, "the stack is ready", 60)
            except TimeIsOver as late:
                pytest.fail(f"{late}\n{stack.last_words()}", pytrace=False)
            yield stack
            until(stack.is_idle, "every job has ended", 30)
            with stack.ledger() as session:
                assert invariants.broken(session) == []
        finally:
            left = stack.stop()
            stack.close_ledger()
        assert left == []
        assert list((stack.data / "work" / "jobs").glob("*")) == []


@pytest.fixture
def running(stack: Stack) -> Iterator[Stack]:
    """The stack with every program running, also after the test; none may end by itself."""
    yield stack
    ended = stack.ended()
    by_themselves = ended - stack.meant_to_end
    stack.start(*ended)
    until(stack.ready, "the stack is ready again", 40)
    assert not by_themselves


signs, begun, go = gates.signs, gates.begun, gates.go


@pytest.fixture
def gate(stack: Stack, signs: Path) -> Callable[..., UUID]:
    return gates.gate_of(stack, signs)
