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

from sqlalchemy import (
    ColumnElement,
    Select,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.orm import Session, aliased

from backend.db import db, db_now, transaction
from backend.errors import Conflict
from backend.jobs import ledger
from backend.jobs.kinds import JobKind
from backend.jobs.ledger import AS_WRITTEN, FRESH, new_row, record_event
from backend.jobs.models import IS_ACTIVE, IS_PARKED, Artifact, Job
from backend.jobs.signals import announce, ring
from backend.jobs.states import ACTIVE, ENDED, JobState

AGAIN = (JobState.FAILED, JobState.CANCELLED)  # of a batch, what a retry runs again
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
    turn = ledger.turns(session, each.queue, owner_id)
    values = new_row(closing, owner_id, params, next(turn), state=JobState.WAITING, label=label)
    parent = Job(**values)
    parent.stage = next(iter(closing.stages))
    parent.items_total = len(children) if isinstance(children, Sized) else 0
    parent.items_done = 0
    session.add(parent)
    session.flush()
    record_event(session, parent)
    announce(session, parent)
    total = 0
    for run in _in_runs(children):
        rows = [
            new_row(each, owner_id, values, next(turn), label=label)
            | {"parent_id": parent.id, "item": number}
            for number, (label, values) in enumerate(run, start=total)
        ]
        session.execute(insert(Job), rows)
        ledger.hold_inputs(session, each, ((row["id"], row["params"]) for row in rows))
        if total < RINGS_AT_ONCE:
            ring(session, each.queue, [row["id"] for row in rows[: RINGS_AT_ONCE - total]])
        total += len(rows)
    parent.items_total = total
    if total == 0:
        release(session, parent.id)
    return parent


def cancel(session: Session, job: Job, *, by: int | None, force: bool = False) -> Job:
    """Cancel a job, and with a batch its children. What has finished is kept.

    Of a large batch, the first children alone: the rest is `stop_children`'s, in transactions
    that hold up nobody.
    """
    job = ledger.cancel(session, job, by=by, force=force)
    if job.state == JobState.CANCELLING and job.lease_expires_at is None:
        _stop_some(session, job, ROWS_AT_ONCE)
        job = ledger.reloaded(session, job)
    return job


def stop_children(most: int = ROWS_AT_ONCE) -> int:
    """Stop so many children of batches that are to stop; return how many, 0 when none is left.

    What is to be done stands in the batches' own rows, so whoever comes next goes on with it.
    """
    unasked = _child.cancel_requested_at.is_(None) | (Job.cancel_force & ~_child.cancel_force)
    left = exists().where(_child.parent_id == Job.id, _child.state.in_(ACTIVE), unasked)
    parents = select(Job.id).where(IS_PARKED, Job.state == JobState.CANCELLING, left)
    ids = db.session.scalars(parents.order_by(Job.id)).all()
    db.session.commit()
    for parent_id in ids:
        with transaction() as session:
            parent = session.get(Job, parent_id, populate_existing=True)
            if parent is not None and (stopped := _stop_some(session, parent, most)):
                return stopped
    return 0


def _stop_some(session: Session, parent: Job, most: int) -> int:
    """Stop so many children of a batch that is to stop, and end it with the last of them."""
    by, force = parent.cancel_requested_by, parent.cancel_force
    chosen = _unasked(parent.id, force=force).order_by(Job.id).limit(most)
    moved = ledger.move_all(
        session,
        Job.id.in_(session.scalars(chosen).all()),
        IS_ACTIVE,
        **ledger.stop_request(by, force),
    )
    release(session, parent.id)
    return len(moved)


def _unasked(parent_id: UUID, *, force: bool) -> Select[UUID]:
    """The active children that were not asked to stop yet, or not by force."""
    asked = Job.cancel_force if force else Job.cancel_requested_at.is_not(None)
    return select(Job.id).where(Job.parent_id == parent_id, Job.state.in_(ACTIVE), ~asked)


def retry(
    session: Session, job: Job, kind: JobKind[Any, Any], each: JobKind[Any, Any] | None
) -> Job:
    """Try a job again; of a batch only the children that failed or were cancelled.

    `each` is the children's kind, None for a job that is no batch.
    """
    failed = exists().where(_child.parent_id == job.id, _child.state.in_(AGAIN))
    if each is None or not reopen(session, job, kind, failed):
        return ledger.retry(session, job, kind)
    retry_children(session, each, Job.parent_id == job.id)
    return ledger.reloaded(session, job)


def retry_children(session: Session, each: JobKind[Any, Any], *chosen: ColumnElement[bool]) -> int:
    """Queue children of one batch again that failed or were cancelled; return how many.

    Their batch waits for them already. They are of the kind `each`, and take their turns one
    behind the other, as when they were submitted.
    """
    moved = ledger.move_all(
        session,
        *chosen,
        Job.state.in_(AGAIN),
        to=JobState.QUEUED,
        max_attempts=Job.attempt - Job.uncharged + each.retry.attempts,
        run_at=db_now(),
        turn_at=db_now(func.coalesce(Job.item, 0)),
        **FRESH,
    )
    ring(session, each.queue, [row.id for row in moved[:RINGS_AT_ONCE]])
    return len(moved)


def retry_child(
    session: Session, job: Job, kind: JobKind[Any, Any], parent: Job, closing: JobKind[Any, Any]
) -> Job:
    """Try one child of a batch again; a batch that has ended waits for it and closes anew.

    Raises Conflict while the batch is being closed or cancelled.
    """
    wait_again(session, parent, closing)
    return ledger.retry(session, job, kind)


def wait_again(session: Session, parent: Job, closing: JobKind[Any, Any]) -> None:
    """Have a batch wait for children that are about to be tried again.

    Raises Conflict while the batch is being closed or cancelled.
    """
    reopen(session, parent, closing, true())
    waiting = select(Job.id).where(Job.id == parent.id, Job.state == JobState.WAITING)
    if session.execute(waiting.with_for_update()).one_or_none() is None:
        raise Conflict(
            "This job's batch is just being closed; try again once it has ended.",
            code="not_retryable",
            retry_after_seconds=2,
        )


def reopen(
    session: Session, parent: Job, kind: JobKind[Any, Any], condition: ColumnElement[bool]
) -> bool:
    """Have an ended batch wait for children again, where the condition holds.

    What its closing step made is made anew; the files of before expire on their own.
    """
    if not ledger.move(
        session,
        parent,
        Job.state.in_(ENDED) & condition,
        JobState.WAITING,
        max_attempts=Job.attempt - Job.uncharged + kind.retry.attempts,
        checkpoint=None,
        **FRESH,
    ):
        return False
    session.execute(delete(Artifact).where(Artifact.job_id == parent.id))
    return True


_child = aliased(Job)


def release(session: Session, parent_id: UUID) -> Job | None:
    """Start the closing step of a batch whose children have all ended; once, whoever calls.

    A batch that was asked to stop ends as cancelled instead. The closing step is due since the
    batch was submitted, so it does not go to the end of the queue. Returns the parent if it moved.
    """
    unfinished = exists().where(_child.parent_id == parent_id, _child.state.in_(ACTIVE))
    due = (Job.id == parent_id, IS_PARKED, ~unfinished)
    # Locked first: the UPDATE's view is younger then, and a child queued again meanwhile is in it.
    if session.execute(select(Job.id).where(*due).with_for_update()).one_or_none() is None:
        return None
    stopped = Job.cancel_requested_at.is_not(None)
    parent = session.scalars(
        update(Job)
        .where(*due)
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
    report: the others find that it was done just now, and leave a note for the steward. `share`
    is the children's part of the parent's progress bar, 0 to 1.
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
            roll_up_due=False,
            version=Job.version + 1,
        )
        .returning(Job)
        .execution_options(**AS_WRITTEN)
    ).one_or_none()
    if parent is not None:
        announce(session, parent)
        return
    session.execute(
        update(Job)
        .where(Job.id == parent_id, Job.state == JobState.WAITING, ~Job.roll_up_due)
        .values(roll_up_due=True),
        execution_options={"synchronize_session": False},
    )


def _in_runs(children: Iterable[Child]) -> Iterator[list[Child]]:
    """Cut the children into runs that are written in one statement."""
    rest = iter(children)
    while run := list(islice(rest, ROWS_AT_ONCE)):
        yield run
