"""The workers' side of the ledger: claim, renew, report, finish, fail, hand back.

Every write after the claim names the attempt's token (the fence): a worker that was thought
dead and comes back changes nothing, because the row's token is another's by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    ColumnElement,
    Result,
    Row,
    Select,
    case,
    false,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.orm import Session

from backend.db import db_now
from backend.jobs.ledger import TOLD, record_event
from backend.jobs.models import (
    IS_LEASED,
    IS_READY,
    Attempt,
    Job,
    LogLine,
    Pause,
    PauseScope,
)
from backend.jobs.signals import announce
from backend.jobs.states import ENDED, READY, JobState

OVERDUE_SECONDS = 20.0  # what a job waits at most behind those that go before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """An attempt as every write of it names it."""

    job_id: UUID
    token: UUID
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Fence):
    """A job that a slot holds, for as long as the lease is renewed."""

    attempts_left: int
    kind: str
    params: dict[str, Any]
    owner_id: int | None
    parent_id: UUID | None
    checkpoint: dict[str, Any] | None
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a job is. `percent` is 0 to 100; it is stored only if it is a rise."""

    percent: float
    stage: str
    message: str
    items_done: int | None = None
    items_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line that a job logged."""

    at: datetime
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Lease:
    """What a renewal brings back: whether somebody wants the job to stop."""

    cancelling: bool
    force: bool


@dataclass(frozen=True, slots=True)
class Level:
    """The jobs of a queue that have a priority, or no more than it."""

    queue: str
    priority: int


def next_ready(queue: str, worker: str = "") -> Select[UUID]:
    """The job that a queue's next free slot should take.

    The message that woke the worker says that there may be work, but the ledger chooses: the
    most urgent that is due, whose owner's turn it is. So order, pauses and fairness are decided
    here and not by the broker, and a lost or doubled message costs nothing.
    """
    return (
        select(Job.id)
        .where(Job.queue == queue, IS_READY, Job.run_at <= db_now(), *_not_paused(worker))
        .order_by(Job.priority.desc(), Job.turn_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )


def overdue(level: Level, worker: str = "") -> Select[UUID]:
    """The job that has waited for too long at a level, if there is one."""
    return next_ready(level.queue, worker).where(
        Job.priority <= level.priority, Job.run_at <= db_now(-OVERDUE_SECONDS)
    )


def _not_paused(worker: str) -> tuple[ColumnElement[bool], ...]:
    def names(scope: PauseScope) -> Select[str]:
        return select(Pause.name).where(Pause.scope == scope)

    return (
        Job.queue.not_in(names(PauseScope.QUEUE)),
        Job.kind.not_in(names(PauseScope.KIND)),
        literal(worker).not_in(names(PauseScope.WORKER)),
    )


def claim(
    session: Session,
    queues: Sequence[str],
    slot: str,
    lease_seconds: float,
    *,
    aged: Level | None = None,
) -> Claim | None:
    """Take the next job of the queues, the first first. None when there is nothing to do.

    One conditional UPDATE: of two slots that want the same job, one finds no row. `slot` is
    `<worker>/<process id>`. A job that is overdue at the level `aged` goes before all others: a
    slot that asks for each level now and then leaves none of them waiting for ever.
    """
    worker = slot.rpartition("/")[0]
    chosen = [next_ready(queue, worker).scalar_subquery() for queue in queues]
    if aged is not None:
        chosen.insert(0, overdue(aged, worker).scalar_subquery())
    job = session.execute(
        update(Job)
        .where(Job.id == func.coalesce(*chosen, null()), IS_READY)
        .values(
            state=JobState.RUNNING,
            attempt=Job.attempt + 1,
            token=uuid4(),
            lease_expires_at=db_now(lease_seconds),
            started_at=db_now(),
            worker=slot,
            version=Job.version + 1,
        )
        .returning(*TOLD, *_CLAIMED),
        execution_options={"synchronize_session": False},
    ).one_or_none()
    if job is None:
        return None
    session.execute(
        insert(Attempt).values(
            job_id=job.id, number=job.attempt, token=job.token, worker=slot, started_at=db_now()
        )
    )
    record_event(session, job)
    announce(session, job)
    return Claim(
        job_id=job.id,
        token=job.token,
        attempt=job.attempt,
        attempts_left=job.max_attempts - (job.attempt - job.uncharged),
        kind=job.kind,
        params=job.params,
        owner_id=job.owner_id,
        parent_id=job.parent_id,
        checkpoint=job.checkpoint,
        request_id=job.request_id,
    )


_CLAIMED = (
    Job.token,
    Job.uncharged,
    Job.max_attempts,
    Job.kind,
    Job.params,
    Job.checkpoint,
    Job.request_id,
)


def renew(session: Session, held: Fence, lease_seconds: float) -> Lease | None:
    """Extend the lease; None when the job is no longer this attempt's."""
    row = session.execute(
        update(Job)
        .where(*_held(held))
        .values(lease_expires_at=db_now(lease_seconds))
        .returning(Job.state, Job.cancel_force)
    ).one_or_none()
    return None if row is None else Lease(row.state == JobState.CANCELLING, row.cancel_force)


def wishes(session: Session, held: Fence) -> Lease | None:
    """What the ledger wants of a running attempt, read without a write."""
    row = session.execute(select(Job.state, Job.cancel_force).where(*_held(held))).one_or_none()
    return None if row is None else Lease(row.state == JobState.CANCELLING, row.cancel_force)


def report(session: Session, held: Fence, progress: Progress) -> bool:
    """Store progress; False when the job is no longer this attempt's."""
    job = _write(
        session,
        held,
        version=Job.version + 1,
        percent=case((Job.percent > progress.percent, Job.percent), else_=progress.percent),
        stage=progress.stage,
        message=progress.message,
        items_done=progress.items_done,
        items_total=progress.items_total,
    )
    if job is None:
        return False
    announce(session, job)
    return True


def log_lines(session: Session, held: Fence, lines: Sequence[Line]) -> None:
    """Store lines that a job logged. They bear the attempt's number and need no fence."""
    session.execute(
        insert(LogLine),
        [
            {
                "job_id": held.job_id,
                "attempt": held.attempt,
                "at": line.at,
                "level": line.level,
                "message": line.message,
            }
            for line in lines
        ],
    )


def log_end(session: Session, held: Fence, reason: str) -> None:
    """Say in the job's log how an attempt ended whose own process could not."""
    now = session.scalars(select(db_now())).one()
    log_lines(session, held, [Line(at=now, level="error", message=reason)])


def hold(session: Session, held: Fence) -> bool:
    """Lock the job's row for this transaction; False when it is no longer this attempt's."""
    row = session.execute(select(Job.id).where(*_held(held)).with_for_update()).one_or_none()
    return row is not None


def save_checkpoint(session: Session, held: Fence, state: dict[str, Any]) -> bool:
    """Keep what the next attempt is to go on from."""
    return _write(session, held, checkpoint=state) is not None


def finish(session: Session, held: Fence, result: dict[str, Any]) -> Row[Any] | None:
    """End the attempt and its job as succeeded; None when it is no longer this attempt's."""
    return _end(
        session,
        held,
        JobState.SUCCEEDED,
        outcome="succeeded",
        result=result,
        percent=100.0,
        message="Done",
        error=None,
        error_code=None,
    )


def fail(
    session: Session, held: Fence, error: str, *, code: str, outcome: str = "failed"
) -> Row[Any] | None:
    """End the attempt and its job as failed."""
    return _end(
        session, held, JobState.FAILED, outcome=outcome, note=error, error=error, error_code=code
    )


def stop(session: Session, held: Fence, outcome: str = "cancelled") -> Row[Any] | None:
    """End the attempt and its job as cancelled."""
    return _end(session, held, JobState.CANCELLED, outcome=outcome, message="Cancelled")


def try_later(
    session: Session, held: Fence, error: str, *, code: str, wait_seconds: float
) -> Row[Any] | None:
    """End the attempt; its job is due again after the wait, by the database's clock."""
    return _end(
        session,
        held,
        JobState.RETRYING,
        outcome="failed",
        note=error,
        error=error,
        error_code=code,
        run_at=db_now(wait_seconds),
        turn_at=db_now(wait_seconds),
    )


def give_back(
    session: Session, held: Fence, outcome: str, *, note: str, charged: bool
) -> Row[Any] | None:
    """End the attempt; its job is ready at once, from its last checkpoint.

    A deploy's hand-back is not charged; a lost worker's attempt is.
    """
    return _end(
        session,
        held,
        JobState.QUEUED,
        outcome=outcome,
        note=note,
        uncharged=Job.uncharged + (0 if charged else 1),
        run_at=db_now(),
    )


def lose(session: Session, held: Fence, reason: str) -> Row[Any] | None:
    """Record that the attempt's process is gone: cancelled, run again, or failed as poison."""
    job = session.execute(
        select(Job.state, Job.attempt, Job.uncharged, Job.max_attempts)
        .where(*_held(held))
        .with_for_update()
    ).one_or_none()
    if job is None:
        return None
    log_end(session, held, reason)
    if job.state == JobState.CANCELLING:
        return stop(session, held, "lost")
    if job.attempt - job.uncharged >= job.max_attempts:
        error = f"{reason}; this was attempt {job.attempt}, and it is not tried again"
        return fail(session, held, error, code="poison", outcome="lost")
    return give_back(session, held, "lost", note=reason, charged=True)


def fence_of(job: Job) -> Fence:
    """The fence of a job's present attempt; ValueError for a job that none holds."""
    if job.token is None:
        raise ValueError(f"job {job.id} is held by no attempt")
    return Fence(job_id=job.id, token=job.token, attempt=job.attempt)


def _held(held: Fence) -> tuple[Any, ...]:
    return (Job.id == held.job_id, Job.token == held.token, IS_LEASED)


def _write(session: Session, held: Fence, **values: Any) -> Row[Any] | None:
    written: Result[Any] = session.execute(
        update(Job).where(*_held(held)).values(**values).returning(*TOLD),
        execution_options={"synchronize_session": False},
    )
    return written.one_or_none()


def _end(
    session: Session,
    held: Fence,
    state: JobState,
    *,
    outcome: str,
    note: str | None = None,
    **values: Any,
) -> Row[Any] | None:
    """The one way in which an attempt ends, whatever becomes of its job."""
    # What is asked to stop does not run again, whyever its attempt ended.
    stops = (Job.state == JobState.CANCELLING) if state in READY else false()
    job = _write(
        session,
        held,
        state=case((stops, literal(JobState.CANCELLED)), else_=literal(state)),
        # Whoever still writes under it comes too late, whatever the job does next.
        token=None,
        lease_expires_at=None,
        ended_at=case((stops, db_now()), else_=db_now() if state in ENDED else None),
        version=Job.version + 1,
        **values,
    )
    if job is None:
        return None
    session.execute(
        update(Attempt)
        .where(Attempt.token == held.token)
        .values(ended_at=db_now(), outcome=outcome, error=note)
    )
    record_event(session, job, note)
    announce(session, job)
    return job
