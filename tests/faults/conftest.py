"""Benches: one for each set of parts and times, used row after row for as long as it is sound."""

import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from uuid import UUID
from zlib import crc32

import pytest

from tests.faults.bench import NAMED, SHORT, Bench
from tests.integration import gates
from tests.postgresql import running_server

# Each on both sets of parts.
SHORT_SEEDS, FULL_SEEDS = 3, 100
EMBEDDED, OUTGROWN = "sqlite+valkey", "postgresql+redis"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the ends of a stack's logs with a failure."""
    report = yield
    bench = getattr(item, "funcargs", {}).get("bench")
    if report.failed and isinstance(bench, Bench):
        report.sections.append(("The stack's logs", bench.last_words()))
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """What shares a bench runs in one process, which starts it once."""
    parts = _parts(item)
    if parts is not None:
        item.add_marker(pytest.mark.xdist_group(f"faults on {parts}"), append=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those of one set of times together, so that each set of parts is started once for each.

    The short run has each test on one set of parts, drawn by its name.
    """
    if not config.getoption("full"):
        left_out = [item for item in items if _parts(item) not in {None, _lot(item)}]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.get_closest_marker("named_times") is not None)


def _parts(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    lent = callspec.params.get("lent") if callspec else None
    return lent.parts if isinstance(lent, Lent) else None


def _lot(item: pytest.Item) -> str:
    # By the test's name, so that it does not depend on what else runs.
    return (EMBEDDED, OUTGROWN)[crc32(getattr(item, "originalname", "").encode()) % 2]


@dataclass
class Lent:
    """A bench that is started when it is wanted, and replaced once it is no longer sound."""

    parts: str
    times: Mapping[str, str]
    holding: ExitStack = field(default_factory=ExitStack)
    bench: Bench | None = None

    def take(self) -> Bench:
        if self.bench is None:
            server = (
                self.holding.enter_context(running_server()) if self.parts == OUTGROWN else None
            )
            # Not pytest's own folder: a unix socket's address has room for a hundred characters.
            folder = self.holding.enter_context(tempfile.TemporaryDirectory(prefix="sluice-"))
            url = server.fresh_database() if server else ""
            broker = "redis-server" if server else "valkey"
            bench = Bench(Path(folder), url, broker, self.times, server=server)
            self.bench = self.holding.enter_context(bench.running())
        return self.bench

    def throw_away(self) -> None:
        self.bench = None
        self.holding.close()


@cache
def lent_with(parts: str, short: bool) -> Lent:
    """The same for every test, so that pytest sees that it can stay."""
    return Lent(parts, SHORT if short else NAMED)


@pytest.fixture(scope="session")
def lent(request: pytest.FixtureRequest) -> Iterator[Lent]:
    """Where the tests of these parts and times take their bench from."""
    yield request.param
    request.param.throw_away()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a bench on both sets of parts; rows about times with the times named."""
    if "lent" in metafunc.fixturenames:
        named = metafunc.definition.get_closest_marker("named_times") is not None
        combined = metafunc.definition.get_closest_marker("short_times") is not None
        short = combined or not (named or metafunc.config.getoption("full"))
        needs = pytest.mark.needs("initdb", "pg_ctl", "redis-server")
        both = [
            pytest.param(lent_with(EMBEDDED, short), id=EMBEDDED),
            pytest.param(lent_with(OUTGROWN, short), id=OUTGROWN, marks=needs),
        ]
        metafunc.parametrize("lent", both, indirect=True, scope="session")
    if "seed" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("seed")
        most = FULL_SEEDS if metafunc.config.getoption("full") else SHORT_SEEDS
        metafunc.parametrize("seed", [wanted] if wanted is not None else range(1, most + 1))


@pytest.fixture
def bench(lent: Lent) -> Iterator[Bench]:
    """Everything running; after the test every rule holds, and the next one finds it so."""
    bench = lent.take()
    yield bench
    try:
        by_themselves = bench.ended() - bench.meant_to_end
        bench.recover()
        bench.check()
        assert not by_themselves
    except BaseException:
        print(bench.last_words())  # noqa: T201 - pytest shows it with the failure
        lent.bench = None
        raise
    finally:
        if lent.bench is None:
            lent.throw_away()


signs, begun, go = gates.signs, gates.begun, gates.go


@pytest.fixture
def gate(bench: Bench, signs: Path) -> Callable[..., UUID]:
    return gates.gate_of(bench, signs)
