"""The workers' side of the ledger: claim, renew, report, finish, fail, hand back.

Every write after the claim names the attempt's token (the fence): a worker that was thought
dead and comes back changes nothing, because the row's token is another's by then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Result,
    Row,
    Select,
    String,
    Update,
    bindparam,
    case,
    exists,
    false,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from backend.db import db_now, random_uuid, table_of
from backend.jobs.ledger import TOLD, record_event, record_events
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

_jobs, _attempts, _pauses = map(table_of, (Job, Attempt, Pause))
_NOBODY: ColumnElement[str] = literal("")

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

    @property
    def fence(self) -> Fence:
        """What every write of the attempt names."""
        return Fence(job_id=self.job_id, token=self.token, attempt=self.attempt)


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


def ready_in(queue: ColumnElement[str], worker: ColumnElement[str] = _NOBODY) -> Select[UUID]:
    """The jobs that a queue's slots may take, in the order in which they should.

    The message that woke the worker says that there may be work, but the ledger chooses: the
    most urgent that is due, whose owner's turn it is. So order, pauses and fairness are decided
    here and not by the broker, and a lost or doubled message costs nothing.
    """
    return (
        select(_jobs.c.id)
        .where(_jobs.c.queue == queue, IS_READY, _jobs.c.run_at <= db_now(), *_not_paused(worker))
        .order_by(_jobs.c.priority.desc(), _jobs.c.turn_at, _jobs.c.id)
    )


def next_ready(queue: ColumnElement[str], worker: ColumnElement[str] = _NOBODY) -> Select[UUID]:
    """The job that a queue's next free slot should take; no other slot waits for its row."""
    return ready_in(queue, worker).limit(1).with_for_update(skip_locked=True)


def overdue(
    queue: ColumnElement[str], priority: ColumnElement[int], worker: ColumnElement[str]
) -> Select[UUID]:
    """The job that has waited for too long at a level, if there is one."""
    return next_ready(queue, worker).where(
        _jobs.c.priority <= priority, _jobs.c.run_at <= db_now(-OVERDUE_SECONDS)
    )


def _not_paused(worker: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    def names(scope: PauseScope) -> Select[str]:
        return select(_pauses.c.name).where(_pauses.c.scope == scope)

    return (
        _jobs.c.queue.not_in(names(PauseScope.QUEUE)),
        _jobs.c.kind.not_in(names(PauseScope.KIND)),
        worker.not_in(names(PauseScope.WORKER)),
    )


@dataclass(frozen=True, slots=True)
class Slot:
    """Who claims. `name` is `<worker>/<process id>`, `queues` what it serves, the first first."""

    name: str
    queues: tuple[str, ...]
    lease_seconds: float


def claim(session: Session, slot: Slot, *, most: int = 1, aged: Level | None = None) -> list[Claim]:
    """Take the next jobs of the first of the slot's queues in which any is ready.

    Returns at most so many, in the order in which they are to run; none when there is nothing to
    do. It is one conditional UPDATE: of two slots that want the same job, one finds no row. A job
    that is overdue at the level `aged` is taken before all others, alone: a slot that asks for
    each level now and then leaves none of them waiting for ever.
    """
    values = {
        "worker": slot.name.rpartition("/")[0],
        "slot": slot.name,
        "lease_seconds": slot.lease_seconds,
    }
    taken: Sequence[Row[Any]] = ()
    if aged is not None:
        level = {"aged_queue": aged.queue, "aged_priority": aged.priority}
        taken = session.execute(_CLAIMING_OVERDUE, values | level).all()
    if not taken:
        taken = session.execute(_claiming(slot.queues), values | {"most": most}).all()
    if not taken and len(slot.queues) > 1:
        # Another slot may just be taking the only job of the first queue that had one.
        for queue in slot.queues:
            taken = taken or session.execute(_claiming((queue,)), values | {"most": most}).all()
    if not taken:
        return []
    session.execute(
        _BEGINNING,
        [
            {"job_id": job.id, "number": job.attempt, "token": job.token, "worker": slot.name}
            for job in taken
        ],
    )
    record_events(session, taken)
    for job in taken:
        announce(session, job)
    return [
        Claim(
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
        for job in sorted(taken, key=lambda job: (-job.priority, job.turn_at, job.id))
    ]


# The statements of the way that every job goes are made once: SQLAlchemy takes longer to build
# one than to run it. Their parameters have names that no column has.


_WORKER = bindparam("worker", type_=String)


@cache
def _claiming(queues: tuple[str, ...]) -> Update:
    first = [
        ready_in(literal(queue), _WORKER)
        .with_only_columns(literal(queue))
        .order_by(None)
        .limit(1)
        .scalar_subquery()
        for queue in queues
    ]
    queue = func.coalesce(*first, null())
    return _taking(next_ready(queue, _WORKER).limit(bindparam("most", type_=Integer)))


def _taking(chosen: Select[UUID]) -> Update:
    # Looked for once, before the rows are written: a plan that looked again for each row would
    # take more of them than wanted.
    ids = chosen.cte("chosen").prefix_with("MATERIALIZED", dialect="postgresql")
    return (
        update(_jobs)
        # Spelled otherwise than IS_READY, or SQLite would look through all that are.
        .where(_jobs.c.id.in_(select(ids.c.id)), _jobs.c.state.in_(READY))
        .values(
            state=JobState.RUNNING,
            attempt=_jobs.c.attempt + 1,
            token=random_uuid(),
            lease_expires_at=db_now(bindparam("lease_seconds", type_=Float)),
            started_at=db_now(),
            worker=bindparam("slot"),
            version=_jobs.c.version + 1,
        )
        .returning(
            *TOLD,
            *(
                _jobs.c[name]
                for name in [
                    "token",
                    "uncharged",
                    "max_attempts",
                    "kind",
                    "params",
                    "checkpoint",
                    "request_id",
                    "priority",
                    "turn_at",
                ]
            ),
        )
    )


_CLAIMING_OVERDUE = _taking(
    overdue(
        bindparam("aged_queue", type_=String), bindparam("aged_priority", type_=Integer), _WORKER
    )
)
_BEGINNING = insert(_attempts).values(started_at=db_now())


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
