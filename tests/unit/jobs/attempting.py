"""Running attempts as a worker's slot does, and seeing what came of them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import db, transaction
from backend.jobs import Queue
from backend.jobs.claims import Slot
from backend.jobs.models import Attempt, Job, LogLine
from backend.jobs.runner import ALL, Watch

WORKER = "default@test/7"


def run_next() -> int:
    """Run the next attempt, in a process of its own; return how many that were."""
    return run_all(most=1)


def run_all(most: int = ALL) -> int:
    """Run what is ready in one slot; return how many attempts that were."""
    watch = Watch(Slot(WORKER, (Queue.DEFAULT,), lease_seconds=60))
    try:
        return watch.serve(most)
    finally:
        watch.close()


def attempts_of(job: Job) -> list[Attempt]:
    query = select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number)
    return list(db.session.scalars(query))


def outcomes(job: Job) -> list[str | None]:
    return [attempt.outcome for attempt in attempts_of(job)]


def logged(job: Job) -> list[str]:
    query = select(LogLine).where(LogLine.job_id == job.id).order_by(LogLine.id)
    return [line.message for line in db.session.scalars(query)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], object], what: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.01)


@contextmanager
def meanwhile(app: Flask, sign: Path, act: Callable[[Session], object]) -> Iterator[None]:
    """Act on the ledger from another thread as soon as the attempt gives the sign."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            wait_for(sign.exists, "the attempt has begun")
            with app.app_context(), transaction() as session:
                act(session)
        except Exception as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join()
    if failures:
        raise failures[0]
