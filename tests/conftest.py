"""What every suite shares: the rule about outside programs that tests need."""

import os
import shutil
import signal
from collections.abc import Iterator

import pytest
from pydantic_settings import BaseSettings

from tests import postgresql as postgresql_server

pytest.register_assert_rewrite(
    "tests.integration.stack", "tests.faults.bench", "tests.faults.sites"
)

SEARCHED = os.pathsep.join([postgresql_server.SEARCHED, "/usr/sbin", "/sbin"])


class Surroundings(BaseSettings):
    """Where the tests run: CI services set CI, to `true` or to their name."""

    ci: str = ""


# What a shell starts in the background ignores SIGINT, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much of the fault bench to run."""
    group = parser.getgroup("faults")
    group.addoption("--full", action="store_true", help="the long run: large and many")
    group.addoption("--seed", type=int, help="repeat the combination of faults of this seed alone")


def pytest_itemcollected(item: pytest.Item) -> None:
    """What runs beside another run does so file by file (`--dist loadgroup`)."""
    item.add_marker(pytest.mark.xdist_group(item.location[0]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `needs` whose programs are missing; in CI that is a failure."""
    wanted = [program for marker in item.iter_markers("needs") for program in marker.args]
    missing = [program for program in wanted if shutil.which(program, path=SEARCHED) is None]
    if not missing:
        return
    reason = f"not on PATH: {', '.join(missing)}"
    if Surroundings().ci.lower() in {"", "0", "false"}:
        pytest.skip(reason)
    pytest.fail(f"{reason}; in CI nothing may be missing", pytrace=False)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgresql_server.Server]:
    """A PostgreSQL server of this session; for tests that need `initdb` and `pg_ctl`."""
    with postgresql_server.running_server() as server:
        yield server
