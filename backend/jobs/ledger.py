"""What callers do to jobs: submit, cancel, retry, delete.

`ledger`, `attempts` (the workers' side) and `batches` (parents and children) are the only
writers of job rows. Every change of state is one conditional UPDATE, so that of two that race
one finds no row and does nothing. Services never commit: the caller owns the transaction.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, ParamSpec, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import (
    ColumnElement,
    FromClause,
    Insert,
    Result,
    Row,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, aliased
from uuid_utils.compat import uuid7

from backend.clock import utc_now
from backend.db import db_now, table_of
from backend.errors import Conflict, NotFound
from backend.jobs.kinds import JobKind
from backend.jobs.models import IS_ACTIVE, IS_READY, Job, JobEvent, JobInput
from backend.jobs.signals import announce, ring
from backend.jobs.states import ENDED, JobState

MOST_TOLD = 200  # of jobs that are changed at once
MOST_NAMED = 5000  # rows in one statement; PostgreSQL takes 65,535 parameters at most
TURN = timedelta(seconds=1)  # by which each further job of an owner goes behind the last
P = ParamSpec("P")
R = TypeVar("R")

# What watchers and events are told of a row that was written.
TOLD = tuple(
    table_of(Job).c[name] for name in ("id", "owner_id", "parent_id", "state", "attempt", "version")
)
# An UPDATE … RETURNING is the newest word on a row, over what the session had loaded before.
AS_WRITTEN = {"populate_existing": True, "synchronize_session": False}


def submit(
    session: Session, kind: JobKind[P, R], owner_id: int | None, *args: P.args, **params: P.kwargs
) -> Job:
    """Insert a job in the caller's transaction; its doorbell rings after the commit.

    `params` are the function's own keyword arguments. Raises marshmallow's ValidationError if
    they are not what the kind's schema says.
    """
    job = Job(**new_row(kind, owner_id, params, next(turns(session, kind.queue, owner_id))))
    session.add(job)
    session.flush()
    hold_inputs(session, kind, [(job.id, job.params)])
    record_event(session, job)
    ring(session, job.queue, [job.id])
    announce(session, job)
    return job


def new_row(
    kind: JobKind[Any, Any],
    owner_id: int | None,
    params: Mapping[str, Any],
    turn: "Turn",
    *,
    state: JobState = JobState.QUEUED,
    label: str = "",
) -> dict[str, Any]:
    """Make a row for a kind, as values of its columns. The params are checked and dumped."""
    schema = kind.params_schema
    dumped = schema.dump(params)
    schema.load(dumped)
    context = structlog.contextvars.get_contextvars()
    return {
        "id": uuid7(),
        "kind": kind.name,
        "owner_id": owner_id,
        "label": label,
        "queue": kind.queue,
        "priority": kind.priority,
        "state": state,
        "params": dumped,
        "created_at": utc_now(),
        "run_at": turn.due_at,
        "turn_at": turn.at,
        "max_attempts": kind.retry.attempts,
        "request_id": context.get("request_id", ""),
    }


class Turn(NamedTuple):
    """When a new job is due, and its place among jobs of the same priority."""

    due_at: datetime
    at: datetime


def turns(session: Session, queue: str, owner_id: int | None) -> Iterator[Turn]:
    """The turns of an owner's next jobs in a queue.

    A job that is submitted while others of its owner wait goes behind the last of them by a
    second: whoever has a hundred thousand jobs waiting lets others, who have few, go first.
    """
    last = select(func.max(Job.turn_at)).where(
        Job.queue == queue, Job.owner_id == owner_id, IS_READY
    )
    # The system's own jobs are few, and wait for nobody.
    behind = null() if owner_id is None else last.scalar_subquery()
    # The database's time, so that a web machine whose clock is fast delays nothing.
    now, last_turn = session.execute(select(db_now(), behind)).one()
    turn = max(now, last_turn + TURN) if last_turn is not None else now
    while True:
        yield Turn(now, turn)
        turn += TURN


def hold_inputs(
    session: Session, kind: JobKind[Any, Any], jobs: Iterable[tuple[UUID, Mapping[str, Any]]]
) -> None:
    """Record which stored files the new jobs of a kind read, by their ids and parameters."""
    rows = [
        {"job_id": job_id, "file_id": file_id}
        for job_id, params in jobs
        for file_id in dict.fromkeys(kind.inputs(params))
    ]
    if rows:
        session.execute(insert(JobInput), rows)


def cancel(session: Session, job: Job, *, by: int | None, force: bool = False) -> Job:
    """Ask a job to stop; one that has not begun stops at once. Returns the job as it is now.

    Asking again is allowed, also to turn a gentle request into a forced one. A job that has
    ended stays as it is.
    """
    move(session, job, IS_ACTIVE, **stop_request(by, force))
    return reloaded(session, job)


def stop_request(by: int | None, force: bool) -> dict[str, Any]:
    """What a cancel writes on an active job.

    The row decides as the UPDATE finds it: a job that is claimed or handed back at the same
    moment is stopped either way.
    """
    return {
        "to": case((IS_READY, literal(JobState.CANCELLED)), else_=literal(JobState.CANCELLING)),
        "ended_at": case((IS_READY, db_now()), else_=None),
        "message": case((IS_READY, "Cancelled before it began"), else_="Cancelling…"),
        "cancel_requested_at": db_now(),
        "cancel_requested_by": by,
        "cancel_force": Job.cancel_force | force,
    }


def retry(session: Session, job: Job, kind: JobKind[Any, Any]) -> Job:
    """Queue a failed or cancelled job again, with its full number of attempts.

    Raises Conflict if the job has not ended or has succeeded; of two that race, one does.
    """
    moved = move(
        session,
        job,
        Job.state.in_([JobState.FAILED, JobState.CANCELLED]),
        JobState.QUEUED,
        max_attempts=Job.attempt - Job.uncharged + kind.retry.attempts,
        run_at=db_now(),
        turn_at=next(turns(session, job.queue, job.owner_id)).at,
        **FRESH,
    )
    if not moved:
        reloaded(session, job)
        raise Conflict(
            f"This job is {job.state}; only a failed or cancelled job can be tried again.",
            code="not_retryable",
        )
    ring(session, job.queue, [job.id])
    return reloaded(session, job)


def reloaded(session: Session, job: Job) -> Job:
    """The job as it is now; NotFound if it was deleted meanwhile."""
    try:
        session.refresh(job)
    except InvalidRequestError:
        raise NotFound(f"There is no job {job.id}.") from None
    return job


# What a job forgets when it starts over at somebody's wish.
FRESH: dict[str, Any] = {
    "cancel_requested_at": None,
    "cancel_requested_by": None,
    "cancel_force": False,
    "ended_at": None,
    "expires_at": None,
    "error": None,
    "error_code": None,
    "percent": 0.0,
    "stage": "",
    "message": "",
    "result": None,
}


_parent = aliased(Job)
IS_REMOVABLE = Job.state.in_(ENDED) & ~exists().where(
    _parent.id == Job.parent_id, _parent.state.not_in(ENDED)
)


def remove(session: Session, job: Job) -> None:
    """Delete an ended job with its children, events, log and artifacts.

    Raises Conflict while it is active, or its batch is. The files expire on their own.
    """
    gone = session.execute(
        delete(Job).where(Job.id == job.id, IS_REMOVABLE).returning(Job.id)
    ).all()
    if not gone and job.ended:
        raise Conflict(
            "This job's batch is still active; it can be deleted once the batch has ended.",
            code="job_active",
        )
    if not gone:
        raise Conflict(
            f"This job is {job.state}; cancel it first, and delete it once it has ended.",
            code="job_active",
        )
    session.expunge(job)


def remove_all(session: Session, ids: Sequence[UUID]) -> int:
    """Delete those of the jobs that have ended, and whose batch has; return how many."""
    gone = delete(Job).where(Job.id.in_(ids), IS_REMOVABLE).returning(Job.id)
    return len(session.scalars(gone, execution_options={"synchronize_session": False}).all())


def record_event(session: Session, job: Job | Row[Any], note: str | None = None) -> None:
    """Record the job's present state as an event."""
    session.execute(_HAPPENING, _event(job, note))


def record_events(session: Session, jobs: Iterable[Row[Any]]) -> None:
    """Record the present states of jobs as events."""
    session.execute(_HAPPENING, [_event(job) for job in jobs])


def _event(job: Job | Row[Any], note: str | None = None) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "owner_id": job.owner_id if job.parent_id is None else None,
        "state": job.state,
        "attempt": job.attempt or 0,
        "note": note,
    }


_HAPPENING = insert(table_of(JobEvent)).values(at=db_now())


def recording(jobs: FromClause) -> Insert:
    """The statement that records the states of selected jobs as events."""
    owner_id = case((jobs.c.parent_id.is_(None), jobs.c.owner_id))
    states = select(jobs.c.id, owner_id, jobs.c.state, jobs.c.attempt, db_now())
    return insert(table_of(JobEvent)).from_select(
        ["job_id", "owner_id", "state", "attempt", "at"], states
    )


def move(
    session: Session,
    job: Job,
    condition: ColumnElement[bool],
    to: JobState | ColumnElement[str],
    **values: Any,
) -> bool:
    """Change the state where the condition holds; tell whether it did."""
    statement = (
        update(Job)
        .where(Job.id == job.id, condition)
        .values(state=to, version=Job.version + 1, **values)
        .returning(Job)
        .execution_options(**AS_WRITTEN)
    )
    moved = session.scalars(statement).one_or_none()
    if moved is None:
        return False
    record_event(session, moved)
    announce(session, moved)
    return True


def move_all(
    session: Session,
    *chosen: ColumnElement[bool],
    to: JobState | ColumnElement[str],
    **values: Any,
) -> Sequence[Row[Any]]:
    """Change the state of all jobs that are chosen; return those that moved, with their queues.

    The events are those of the rows that the UPDATE moved: a job that moves by itself at the
    same moment is told of once.
    """
    moved = change_all(session, *chosen, state=to, **values)
    owner = case((Job.parent_id.is_(None), Job.owner_id))
    rows = select(Job.id, owner, db_now(), Job.state, Job.attempt)
    for first in range(0, len(moved), MOST_NAMED):
        ids = [row.id for row in moved[first : first + MOST_NAMED]]
        session.execute(
            insert(JobEvent).from_select(
                ["job_id", "owner_id", "at", "state", "attempt"], rows.where(Job.id.in_(ids))
            )
        )
    return moved


def change_all(session: Session, *chosen: ColumnElement[bool], **values: Any) -> Sequence[Row[Any]]:
    """Write the values on all jobs that are chosen; return them as watchers are told of them."""
    written: Result[Any] = session.execute(
        update(Job)
        .where(*chosen)
        .values(version=Job.version + 1, **values)
        .returning(*TOLD, Job.queue),
        execution_options={"synchronize_session": False},
    )
    changed = written.all()
    # Of more, watchers learn when they next look by themselves.
    for job in changed[:MOST_TOLD]:
        announce(session, job)
    return changed
