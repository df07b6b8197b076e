"""An act on many jobs whose maker is killed: beat finishes it, and each job is done once."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from backend.clock import utc_now
from backend.db import Base, db, transaction
from backend.jobs.ledger import Turn, new_row
from backend.jobs.models import Act, Job, JobEvent
from tests.integration.probes import idle_nap
from tests.integration.stack import BIN, ROOT, Stack, until

MANY = 30_000


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A broker, and a backlog that no worker serves."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        stack = Stack(Path(folder), "", "valkey")
        stack.data.mkdir()
        stack.open_ledger()
        stack.start("broker")
        with stack.app.app_context():
            Base.metadata.create_all(db.engine)
        turn = Turn(utc_now(), utc_now())
        with stack.app.app_context(), transaction() as session:
            rows = [new_row(idle_nap, None, {"seconds": 0}, turn) for _ in range(MANY)]
            session.execute(insert(Job), rows)
        yield stack
        left = stack.stop()
        stack.close_ledger()
        assert left == []


def done(stack: Stack) -> int:
    with stack.ledger() as session:
        return session.scalar(select(func.max(Act.done))) or 0


def is_finished(stack: Stack) -> bool:
    with stack.ledger() as session:
        return session.scalars(select(Act.finished_at)).one() is not None


def test_an_act_whose_maker_is_killed_is_finished_by_beat_and_no_job_is_done_twice(
    stack: Stack,
) -> None:
    with subprocess.Popen(
        [BIN / "flask", "--app", "tests.integration.probe_app", "jobs", "cancel", "--all"],
        cwd=ROOT,
        env=stack.environment,
        stdout=subprocess.DEVNULL,
    ) as command:
        until(lambda: done(stack), "the first slice is done", 40)
        command.kill()
    assert 0 < done(stack) < MANY
    stack.start("beat")

    until(lambda: is_finished(stack), "beat has finished the act", 90)
    assert done(stack) == MANY
    with stack.ledger() as session:
        cancelled = select(func.count()).where(JobEvent.state == "cancelled")
        jobs = select(func.count(JobEvent.job_id.distinct())).where(JobEvent.state == "cancelled")
        assert (session.scalar(cancelled), session.scalar(jobs)) == (MANY, MANY)
