"""Workers as they report themselves, and slots whose process has died."""

import os
from collections import Counter
from collections.abc import Callable, Collection

from sqlalchemy import delete, exists, select

from backend.db import db, db_now, transaction
from backend.jobs import attempts, marks, processes
from backend.jobs.models import IS_LEASED, Job, Pause, PauseScope, Worker

REPORT_SECONDS = 5.0
REST_SECONDS = 1.0  # between two looks of a drained worker whether it is to claim again


def report(name: str, queues: list[str], slots: int) -> None:
    """Say that a worker is there, serving these queues with so many slots."""
    with transaction() as session:
        worker = session.get(Worker, name)
        if worker is None:
            worker = Worker(name=name, queues=queues, slots=slots, started_at=db_now())
            session.add(worker)
        worker.queues, worker.slots, worker.seen_at = queues, slots, db_now()
    marks.leave()


def leave(name: str) -> None:
    """Forget a worker that ends in good order."""
    with transaction() as session:
        session.execute(delete(Worker).where(Worker.name == name))


def is_drained(name: str) -> bool:
    """Whether a worker is to claim nothing."""
    is_it = exists().where(Pause.scope == PauseScope.WORKER, Pause.name == name)
    found = bool(db.session.scalar(select(is_it)))
    db.session.commit()
    return found


def bury_slots(name: str, alive: Callable[[], Collection[int]]) -> int:
    """Give up the attempts whose slot's process is gone, and what they started; how many.

    A slot is `<worker>/<pid>`. Only the worker itself may judge its own processes. `alive` is
    asked after the ledger: a slot that was forked in between is not taken for a dead one; nor is
    one of another worker that was started under the same name by mistake.
    """
    processes.kill_orphans()
    of_mine = Job.worker.startswith(f"{name}/", autoescape=True)
    mine = select(Job).where(IS_LEASED, Job.token.is_not(None), of_mine)
    running = db.session.scalars(mine).all()
    pids = set(alive())
    lost = [job for job in running if not (_slot_pid(job) in pids or _is_running(_slot_pid(job)))]
    db.session.commit()
    held = Counter(job.worker for job in lost)
    for job in lost:
        with transaction() as session:
            reason = "The worker was lost: its slot's process ended"
            attempts.lose(session, attempts.fence_of(job), reason, among=held[job.worker])
    return len(lost)


def _slot_pid(job: Job) -> int:
    return int((job.worker or "").rpartition("/")[2])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def seen_within(seconds: float) -> list[Worker]:
    """The workers that reported in the last so many seconds."""
    recent = select(Worker).where(Worker.seen_at > db_now(-seconds)).order_by(Worker.name)
    return list(db.session.scalars(recent))


def slots_of(queue: str, seconds: float = 60.0) -> int:
    """How many slots serve a queue."""
    return sum(worker.slots for worker in seen_within(seconds) if queue in worker.queues)
