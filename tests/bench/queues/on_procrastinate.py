"""Procrastinate on PostgreSQL. Its jobs and their events are kept, which is its default.

Its tasks are coroutines here, which it runs without a thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import procrastinate

from tests.bench.queues.trace import FOLDER, tell_the_time

ADDRESS = Path(FOLDER / "database").read_text()
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=ADDRESS))


@app.task(name="nothing")
async def nothing() -> None:
    """Do nothing."""


@app.task(name="clocked")
async def clocked() -> None:
    """Tell the time."""
    tell_the_time()


@contextmanager
def context() -> Iterator[None]:
    """Open its pool of connections."""
    with app.open():
        yield


def prepare() -> None:
    """Make its tables."""
    app.schema_manager.apply_schema()


def submit() -> None:
    """Submit one."""
    nothing.defer()


def submit_clocked() -> None:
    """Submit one that tells the time."""
    clocked.defer()


def submit_many(number: int) -> None:
    """Submit many in one statement."""
    nothing.batch_defer(*({} for _ in range(number)))


def left(_number: int) -> int:
    """How many wait or run."""
    query = "SELECT count(*) AS n FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    return int(_ask(query))


def span() -> float:
    """By its events."""
    query = "SELECT max(at) - min(at) AS n FROM procrastinate_events WHERE type = 'succeeded'"
    found = _ask(query)
    return float(found.total_seconds()) if found is not None else 0.0  # type: ignore[attr-defined]


def _ask(query: str) -> object:
    return app.connector.get_sync_connector().execute_query_one(query)["n"]
