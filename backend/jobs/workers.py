"""Workers as they report themselves, and slots whose process has died."""

from collections import Counter

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


def slot_name(worker: str, pid: int) -> str:
    """What the slot of a process is called: no other slot ever is, of any worker of that name."""
    return f"{worker}/{processes.identity(pid)}"


def bury_slots(name: str) -> int:
    """Give up the attempts whose slot's process is gone, and what they started; how many.

    Processes are judged in their own place alone: a worker that was started elsewhere under the
    same name, by mistake, is not taken for dead.
    """
    processes.kill_orphans()
    of_mine = Job.worker.startswith(f"{name}/", autoescape=True)
    from_here = Job.worker.endswith(f"-{processes.place()}")
    mine = select(Job).where(IS_LEASED, Job.token.is_not(None), of_mine, from_here)
    running = db.session.scalars(mine).all()
    lost = [job for job in running if not processes.is_alive(_process_of(job))]
    db.session.commit()
    held = Counter(job.worker for job in lost)
    for job in lost:
        with transaction() as session:
            reason = "The worker was lost: its slot's process ended"
            attempts.lose(session, attempts.fence_of(job), reason, among=held[job.worker])
    return len(lost)


def _process_of(job: Job) -> str:
    return (job.worker or "").rpartition("/")[2]


def seen_within(seconds: float) -> list[Worker]:
    """The workers that reported in the last so many seconds."""
    recent = select(Worker).where(Worker.seen_at > db_now(-seconds)).order_by(Worker.name)
    return list(db.session.scalars(recent))


def slots_of(queue: str, seconds: float = 60.0) -> int:
    """How many slots serve a queue."""
    return sum(worker.slots for worker in seen_within(seconds) if queue in worker.queues)
