"""Batches: a parent and its children, each child a job of its own, spread over all workers.

The parent waits until no child is active; the last child to end releases the parent's closing
step. There is no counter to keep: whether a child is still active is asked of an index, after
the child's own commit, so the last of two that end together always sees the other. A worker
that dies between the two leaves the release to the steward.
"""

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any
from uuid import UUID

from sqlalchemy import and_, case, exists, func, insert, literal, select, update
from sqlalchemy.orm import Session, aliased

from backend.db import db_now
from backend.errors import Conflict
from backend.jobs import ledger
from backend.jobs.kinds import JobKind
from backend.jobs.ledger import AS_WRITTEN, FRESH, new_job, record_event
from backend.jobs.models import Job, JobEvent
from backend.jobs.signals import announce, ring
from backend.jobs.states import ENDED, LEASED, READY, JobState

ROWS_AT_ONCE = 1000
# More doorbells than this in one go wake nobody new; the steward rings on as the queue drains.
RINGS_AT_ONCE = 100

Child = tuple[str, Mapping[str, Any]]  # what a person calls it, and its kind's parameters


def submit_batch(
    session: Session,
    closing: JobKind[Any, Any],
    owner_id: int | None,
    each: JobKind[Any, Any],
    children: Iterable[Child],
    *,
    label: str = "",
    **params: Any,
) -> Job:
    """Insert a parent and one child job per item, in the caller's transaction.

    The children are of the kind `each`; when all have ended, the parent runs `closing` with
    `params`. Children may be a generator: rows are written a thousand at a time.
    """
    parent = new_job(closing, owner_id, params, state=JobState.WAITING, label=label)
    parent.stage = next(iter(closing.stages))
    parent.items_total = len(children) if isinstance(children, Sized) else 0
    parent.items_done = 0
    session.add(parent)
    session.flush()
    record_event(session, parent)
    announce(session, parent)
    total = 0
    for run in _in_runs(children):
        rows = [new_job(each, owner_id, values, label=label) for label, values in run]
        for number, row in enumerate(rows, start=total):
            row.parent_id, row.item = parent.id, number
        session.add_all(rows)
        session.flush()
        if total < RINGS_AT_ONCE:
            ring(session, each.queue, [row.id for row in rows[: RINGS_AT_ONCE - total]])
        total += len(rows)
        for row in rows:
            session.expunge(row)
    parent.items_total = total
    if total == 0:
        release(session, parent.id)
    return parent


def cancel(session: Session, job: Job, *, by: int | None, force: bool = False) -> Job:
    """Cancel a job, and with a batch all of it. What has finished is kept."""
    job = ledger.cancel(session, job, by=by, force=force)
    if job.state != JobState.CANCELLING or job.lease_expires_at is not None:
        return job
    request = {
        "cancel_requested_at": db_now(),
        "cancel_requested_by": by,
        "version": Job.version + 1,
    }
    mine = Job.parent_id == job.id
    _events_for(session, mine, READY, JobState.CANCELLED)
    session.execute(
        update(Job)
        .where(mine, Job.state.in_(READY))
        .values(state=JobState.CANCELLED, ended_at=db_now(), **request),
        execution_options={"synchronize_session": False},
    )
    session.execute(
        update(Job)
        .where(mine, Job.state.in_(LEASED))
        .values(state=JobState.CANCELLING, cancel_force=Job.cancel_force | force, **request),
        execution_options={"synchronize_session": False},
    )
    release(session, job.id)
    session.refresh(job)
    return job


def retry(
    session: Session, job: Job, kind: JobKind[Any, Any], each: JobKind[Any, Any] | None
) -> Job:
    """Try a job again; of a batch only the children that failed or were cancelled.

    `each` is the children's kind, None for a job that is no batch.
    """
    again = [JobState.FAILED, JobState.CANCELLED]
    if each is None:
        return ledger.retry(session, job, kind)
    moved = ledger.move(
        session,
        job,
        Job.state.in_([JobState.FAILED, JobState.CANCELLED, JobState.SUCCEEDED])
        & exists().where(_child.parent_id == job.id, _child.state.in_(again)),
        JobState.WAITING,
        max_attempts=Job.attempt - Job.uncharged + kind.retry.attempts,
        **FRESH,
    )
    if not moved:
        return ledger.retry(session, job, kind)
    mine = (Job.parent_id == job.id) & Job.state.in_(again)
    _events_for(session, mine, again, JobState.QUEUED)
    ids = session.scalars(
        update(Job)
        .where(mine)
        .values(
            state=JobState.QUEUED,
            max_attempts=Job.attempt - Job.uncharged + each.retry.attempts,
            run_at=db_now(),
            version=Job.version + 1,
            **FRESH,
        )
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    ).all()
    if not ids:
        raise Conflict("Nothing of this batch failed or was cancelled.", code="not_retryable")
    ring(session, each.queue, ids[:RINGS_AT_ONCE])
    session.refresh(job)
    return job


_child = aliased(Job)


def release(session: Session, parent_id: UUID) -> Job | None:
    """Start the closing step of a batch whose children have all ended; once, whoever calls.

    A batch that was asked to stop ends as cancelled instead. The closing step is due since the
    batch was submitted, so it does not go to the end of the queue. Returns the parent if it moved.
    """
    unfinished = exists().where(_child.parent_id == parent_id, _child.state.not_in(ENDED))
    parked = and_(
        Job.state.in_([JobState.WAITING, JobState.CANCELLING]), Job.lease_expires_at.is_(None)
    )
    stopped = Job.cancel_requested_at.is_not(None)
    parent = session.scalars(
        update(Job)
        .where(Job.id == parent_id, parked, ~unfinished)
        .values(
            state=case((stopped, literal(JobState.CANCELLED)), else_=literal(JobState.QUEUED)),
            ended_at=case((stopped, db_now()), else_=None),
            message=case((stopped, "Cancelled"), else_=Job.message),
            items_done=select(func.count())
            .where(_child.parent_id == parent_id, _child.state.in_(ENDED))
            .scalar_subquery(),
            version=Job.version + 1,
        )
        .returning(Job)
        .execution_options(**AS_WRITTEN)
    ).one_or_none()
    if parent is None:
        return None
    record_event(session, parent)
    announce(session, parent)
    if parent.state == JobState.QUEUED:
        ring(session, parent.queue, [parent.id])
    return parent


def roll_up(session: Session, parent_id: UUID, share: float) -> None:
    """Show the children's progress on their waiting parent.

    At most four times a second, and less often the larger the batch, however many children
    report: the others' UPDATE finds that it was done just now. `share` is the children's part
    of the parent's progress bar, 0 to 1.
    """
    of_mine = _child.parent_id == parent_id
    # A child that failed is as far as it will come.
    shown = case((_child.state.in_(ENDED), 100.0), else_=_child.percent)
    mean = select(func.coalesce(func.avg(shown), 0.0)).where(of_mine).scalar_subquery()
    done = select(func.count()).where(of_mine, _child.state.in_(ENDED)).scalar_subquery()
    percent = mean * share
    pause = 0.25 + func.coalesce(Job.items_total, 0) / 20_000.0
    due = Job.rolled_up_at.is_(None) | (Job.rolled_up_at < db_now(-pause))
    parent = session.scalars(
        update(Job)
        .where(Job.id == parent_id, Job.state == JobState.WAITING, due)
        .values(
            percent=case((Job.percent > percent, Job.percent), else_=percent),
            items_done=done,
            rolled_up_at=db_now(),
            version=Job.version + 1,
        )
        .returning(Job)
        .execution_options(**AS_WRITTEN)
    ).one_or_none()
    if parent is not None:
        announce(session, parent)


def _in_runs(children: Iterable[Child]) -> Iterator[list[Child]]:
    """Cut the children into runs that are written in one statement."""
    rest = iter(children)
    while run := list(islice(rest, ROWS_AT_ONCE)):
        yield run


def _events_for(session: Session, mine: Any, states: Iterable[JobState], to: JobState) -> None:
    """Record one event for each child that is about to move."""
    rows = select(Job.id, Job.owner_id, db_now(), literal(to), Job.attempt, literal(None)).where(
        mine, Job.state.in_(states)
    )
    session.execute(
        insert(JobEvent).from_select(["job_id", "owner_id", "at", "state", "attempt", "note"], rows)
    )
