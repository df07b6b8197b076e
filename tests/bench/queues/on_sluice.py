"""Sluice, with the ledger that its environment names; jobs are submitted as the web does."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select

from backend.db import db, transaction
from backend.jobs import submit as submit_job
from backend.jobs import submit_batch
from backend.jobs.models import IS_LEASED, IS_READY, Job
from tests.bench.queues.kinds import clocked, clocked_high, nothing, web
from tests.bench.queues.trace import FOLDER

AT_ONCE = 500


@contextmanager
def context() -> Iterator[None]:
    """At the end, let out what was rung for."""
    try:
        yield
    finally:
        web.extensions["sluice.doorbell"].flush(30)


def prepare() -> None:
    """The bench has migrated the database."""


def submit() -> None:
    """Submit one, in a context of its own as each request has."""
    with web.app_context(), transaction() as session:
        submit_job(session, nothing, None)


def submit_clocked() -> None:
    """Submit one that tells the time."""
    with web.app_context(), transaction() as session:
        submit_job(session, clocked, None, folder=str(FOLDER))


def submit_clocked_high() -> None:
    """Submit one of high priority that tells the time."""
    with web.app_context(), transaction() as session:
        submit_job(session, clocked_high, None, folder=str(FOLDER))


def submit_many(number: int) -> None:
    """Submit a batch."""
    with web.app_context(), transaction() as session:
        submit_batch(session, nothing, None, nothing, (("", {}) for _ in range(number)))


def submit_for_drain(number: int) -> None:
    """Submit jobs that belong to no batch, each with its event and its ring."""
    for first in range(0, number, AT_ONCE):
        with web.app_context(), transaction() as session:
            for _ in range(first, min(first + AT_ONCE, number)):
                submit_job(session, nothing, None)


def left(_number: int) -> int:
    """How many wait or run."""
    with web.app_context():
        counts = [
            select(func.count()).where(each).select_from(Job) for each in (IS_READY, IS_LEASED)
        ]
        return sum(db.session.scalar(count) or 0 for count in counts)


def span() -> float:
    """By the ledger's `ended_at`."""
    with web.app_context():
        ended = select(func.min(Job.ended_at), func.max(Job.ended_at))
        first, last = db.session.execute(ended).one()
        return float((last - first).total_seconds()) if first else 0.0
