"""What an attempt writes of its job: renew, report, finish, fail, hand back.

Every write after the claim names the attempt's token (the fence): a worker that was thought
dead and comes back changes nothing, because the row's token is another's by then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Float,
    Integer,
    Result,
    Row,
    Select,
    Update,
    bindparam,
    case,
    exists,
    false,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from backend.db import db_now, table_of
from backend.jobs.claims import Fence
from backend.jobs.ledger import TOLD, record_event, record_events
from backend.jobs.models import (
    IS_LEASED,
    Attempt,
    Job,
    LogLine,
)
from backend.jobs.signals import announce
from backend.jobs.states import ENDED, READY, JobState

# So many times an attempt may end uncharged by what looks like no fault of the job's.
MOST_UNCHARGED = 20
_jobs, _attempts = table_of(Job), table_of(Attempt)


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


_child = aliased(Job)
_IS_BATCH = exists().where(_child.parent_id == Job.id)


def report(session: Session, held: Fence, progress: Progress) -> bool:
    """Store progress; False when the job is no longer this attempt's."""
    job = _write(
        session,
        held,
        version=Job.version + 1,
        percent=case((Job.percent > progress.percent, Job.percent), else_=progress.percent),
        stage=progress.stage,
        message=progress.message,
        # A batch's are its children, whatever its closing step counts.
        items_done=case((_IS_BATCH, Job.items_done), else_=progress.items_done),
        items_total=case((_IS_BATCH, Job.items_total), else_=progress.items_total),
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
    return _end(session, held, _FINISHING, "succeeded", new_result=result)


def finish_all(session: Session, done: Mapping[Fence, dict[str, Any]]) -> None:
    """End attempts and their jobs as succeeded, those that still are these attempts'."""
    if not done:
        return
    ids = {"held_jobs": [fence.job_id for fence in done]}
    found: Sequence[Row[Any]] = session.execute(_HOLDING, ids).all()
    tokens = {fence.token: fence for fence in done}
    held = {job: tokens[job.token] for job in found if job.token in tokens}
    if not held:
        return
    session.execute(
        _FINISHING,
        [
            {"held_job": fence.job_id, "held_token": fence.token, "new_result": done[fence]}
            for fence in held.values()
        ],
    )
    session.execute(
        _ENDING_ATTEMPT,
        [
            {"held_token": fence.token, "new_outcome": "succeeded", "new_error": None}
            for fence in held.values()
        ],
    )
    record_events(session, held)
    for job in held:
        announce(session, job)


def fail(
    session: Session, held: Fence, error: str, *, code: str, outcome: str = "failed"
) -> Row[Any] | None:
    """End the attempt and its job as failed."""
    return _end(session, held, _FAILING, outcome, error, new_error=error, new_code=code)


def stop(session: Session, held: Fence, outcome: str = "cancelled") -> Row[Any] | None:
    """End the attempt and its job as cancelled."""
    return _end(session, held, _STOPPING, outcome)


def try_later(
    session: Session, held: Fence, error: str, *, code: str, wait_seconds: float
) -> Row[Any] | None:
    """End the attempt; its job is due again after the wait, by the database's clock."""
    values = {"new_error": error, "new_code": code, "wait_seconds": wait_seconds}
    return _end(session, held, _TRYING_LATER, "failed", error, **values)


def give_back(
    session: Session, held: Fence, outcome: str, *, note: str, charged: bool
) -> Row[Any] | None:
    """End the attempt; its job is ready at once, from its last checkpoint.

    A lost worker's attempt is charged; one that a deploy ended, or that had not begun, is not.
    """
    return _end(session, held, _GIVING_BACK, outcome, note, free=0 if charged else 1)


def interrupt(session: Session, held: Fence, note: str) -> Row[Any] | None:
    """End an attempt that a database which went away has cut short; its job runs again.

    Uncharged, so many times: a job whose own statements make the database give up ends too.
    """
    before = (Attempt.job_id == held.job_id, Attempt.outcome == "interrupted")
    times = session.scalar(select(func.count()).select_from(Attempt).where(*before)) or 0
    if times >= MOST_UNCHARGED:
        return lose(session, held, note)
    return give_back(session, held, "interrupted", note=note, charged=False)


def lose(session: Session, held: Fence, reason: str, *, among: int = 1) -> Row[Any] | None:
    """Record that the attempt's process is gone: cancelled, run again, or failed as poison.

    `among` is how many jobs its slot held. Of several, all but one had not begun, and nobody can
    tell which: none is charged, for so often as that is not the job's own doing.
    """
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
    if among > 1 and job.uncharged < MOST_UNCHARGED:
        return give_back(session, held, "lost", note=reason, charged=False)
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
    statement: Update,
    outcome: str,
    note: str | None = None,
    **values: Any,
) -> Row[Any] | None:
    """The one way in which an attempt ends, whatever becomes of its job."""
    of = {"held_job": held.job_id, "held_token": held.token}
    job: Row[Any] | None = session.execute(_telling(statement), of | values).one_or_none()
    if job is None:
        return None
    session.execute(
        _ENDING_ATTEMPT, {"held_token": held.token, "new_outcome": outcome, "new_error": note}
    )
    record_event(session, job, note)
    announce(session, job)
    return job


@cache
def _telling(statement: Update) -> ReturningUpdate[Any]:
    return statement.returning(*TOLD)


def _ending(state: JobState, **values: Any) -> Update:
    # What is asked to stop does not run again, whyever its attempt ended.
    stops = (_jobs.c.state == JobState.CANCELLING) if state in READY else false()
    return (
        update(_jobs)
        .where(
            _jobs.c.id == bindparam("held_job"),
            _jobs.c.token == bindparam("held_token"),
            IS_LEASED,
        )
        .values(
            state=case((stops, literal(JobState.CANCELLED)), else_=literal(state)),
            # Whoever still writes under it comes too late, whatever the job does next.
            token=None,
            lease_expires_at=None,
            ended_at=case((stops, db_now()), else_=db_now() if state in ENDED else None),
            version=_jobs.c.version + 1,
            **values,
        )
    )


_ERROR: dict[str, Any] = {"error": bindparam("new_error"), "error_code": bindparam("new_code")}
_FINISHING = _ending(
    JobState.SUCCEEDED,
    result=bindparam("new_result", type_=_jobs.c.result.type),
    percent=100.0,
    message="Done",
    error=None,
    error_code=None,
)
_FAILING = _ending(JobState.FAILED, **_ERROR)
_STOPPING = _ending(JobState.CANCELLED, message="Cancelled")
_LATER = db_now(bindparam("wait_seconds", type_=Float))
_TRYING_LATER = _ending(JobState.RETRYING, run_at=_LATER, turn_at=_LATER, **_ERROR)
_GIVING_BACK = _ending(
    JobState.QUEUED,
    run_at=db_now(),
    uncharged=_jobs.c.uncharged + bindparam("free", type_=Integer),
)
# As they will be told of once they have succeeded.
_HOLDING: Select[Any] = (
    select(
        *(each for each in TOLD if each.name not in {"state", "version"}),
        literal(JobState.SUCCEEDED).label("state"),
        (_jobs.c.version + 1).label("version"),
        _jobs.c.token,
    )
    .where(_jobs.c.id.in_(bindparam("held_jobs", expanding=True)), IS_LEASED)
    .order_by(_jobs.c.id)
    .with_for_update()
)
_ENDING_ATTEMPT = (
    update(_attempts)
    .where(_attempts.c.token == bindparam("held_token"))
    .values(ended_at=db_now(), outcome=bindparam("new_outcome"), error=bindparam("new_error"))
)
