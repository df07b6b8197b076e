"""The housekeeping that keeps the promise: one duty a function, safe beside any number of others.

Every duty is made of conditional updates, so two stewards that run at once share the work and
never do it twice.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog
from flask import current_app
from sqlalchemy import exists, literal, select
from sqlalchemy.orm import aliased

from backend.config import MIB, Settings
from backend.db import db, db_now, transaction
from backend.jobs import actions, acts, attempts, batches, claims, marks, metrics, schedules
from backend.jobs.duties import clean_up
from backend.jobs.kinds import Queue
from backend.jobs.ledger import submit
from backend.jobs.models import IS_ACTIVE, IS_LEASED, IS_PARKED, Job
from backend.jobs.states import ENDED

log = structlog.get_logger(__name__)

AT_ONCE = 200  # rows that one look handles
RESERVE = "reserve"  # a file in the data folder
RESERVE_BYTES = 8 * MIB
FULL_BYTES = 1 * MIB  # with less than this left, the disk is as good as full


def tick(is_over: Callable[[], bool] = lambda: False) -> None:
    """Do every duty once, or until it is over."""
    for duty in (
        make_room,
        schedules.submit_due,
        rescue,
        release_parents,
        show_children,
        redispatch,
        stop_children,
        acts.finish_some,
        leave_mark,
    ):
        if not is_over():
            _count(duty)


def _count(duty: Callable[[], int]) -> None:
    """Do a duty; a database or a broker that is away stops this one until the next round."""
    try:
        done = duty()
    except Exception as error:  # noqa: BLE001 - the other duties go on, whatever one meets
        db.session.rollback()
        log.warning("steward_interrupted", duty=duty.__name__, error=str(error)[:200])
        return
    if done:
        log.info("steward", duty=duty.__name__, count=done)
        metrics.STEWARD_ACTIONS.labels(duty.__name__).inc(done)


def make_room() -> int:
    """Start the clean-up when the disk is full; return whether it was started.

    Where the ledger is on that disk, not even the clean-up could be recorded. So a little room is
    kept in reserve, and given up for it; it is kept again once there is room to spare.
    """
    settings: Settings = current_app.config["SLUICE"]
    reserve, free = settings.data_dir / RESERVE, shutil.disk_usage(settings.data_dir).free
    if free < FULL_BYTES and reserve.exists():
        reserve.unlink()
        with transaction() as session:
            under_way = select(Job.id).where(Job.kind == clean_up.name, IS_ACTIVE).limit(1)
            if session.scalars(under_way).first() is None:
                submit(session, clean_up, None)
        return 1
    if free > 4 * RESERVE_BYTES and not reserve.exists():
        reserve.touch(mode=0o600)
        with reserve.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    return 0


def rescue() -> int:
    """Give up attempts whose lease has expired; their jobs run again, or fail as poison."""
    expired = select(Job).where(IS_LEASED, Job.lease_expires_at < db_now()).limit(AT_ONCE)
    jobs = list(db.session.scalars(expired))
    db.session.commit()
    rescued, held = 0, Counter(job.worker for job in jobs)
    for job in jobs:
        with transaction() as session:
            # Asked again under the row's lock: its worker may have renewed the lease meanwhile.
            still = session.execute(
                expired.where(Job.id == job.id, Job.token == job.token).with_for_update()
            ).all()
            reason = "The worker was lost: it sent no heartbeat"
            if still:
                fence, among = attempts.fence_of(job), held[job.worker]
                rescued += attempts.lose(session, fence, reason, among=among) is not None
        if job.parent_id:
            with transaction() as session:
                batches.release(session, job.parent_id)
    return rescued


def release_parents() -> int:
    """Start the closing step of batches whose last child's worker died before it could."""
    child = aliased(Job)
    parked = (
        select(Job.id)
        .where(IS_PARKED, ~exists().where(child.parent_id == Job.id, child.state.not_in(ENDED)))
        .limit(AT_ONCE)
    )
    parents = list(db.session.scalars(parked))
    db.session.commit()
    released = 0
    for parent_id in parents:
        with transaction() as session:
            released += batches.release(session, parent_id) is not None
    return released


def stop_children() -> int:
    """Stop what is left of large batches that were cancelled."""
    return actions.stop_children(acts.STEWARD_SECONDS)


def leave_mark() -> int:
    """Say in the broker which ledger is served here, and by which settings."""
    marks.leave()
    return 0


def show_children() -> int:
    """Show on waiting batches what their children had to say while the last news was fresh."""
    due = select(Job.id).where(IS_PARKED, Job.roll_up_due).limit(AT_ONCE)
    parents = list(db.session.scalars(due))
    db.session.commit()
    for parent_id in parents:
        actions.tell_parent(parent_id)
    return len(parents)


def redispatch() -> int:
    """Ring where a queue has more jobs that are ready than messages to wake workers for them.

    So a broker that was down, or lost its memory, or a retry that came due, is made good; and
    a backlog whose messages are all there, or a queue that is paused, is left alone. However
    long the backlog, no more messages wait than are of use.
    """
    ready = {queue: ids for queue in Queue if (ids := _ready(queue))}
    db.session.commit()
    if not ready:
        return 0
    depths = current_app.extensions["sluice.broker_depths"]()
    rung = 0
    for queue, ids in ready.items():
        missing = ids[: max(0, len(ids) - depths.get(queue, 0))]
        if missing:
            current_app.extensions["sluice.doorbell"].ring(queue, missing)
            rung += len(missing)
    return rung


def _ready(queue: Queue) -> Sequence[UUID]:
    """The jobs that a queue's next slots would take, as many as are rung for at most."""
    return db.session.scalars(claims.ready_in(literal(queue)).limit(batches.RINGS_AT_ONCE)).all()
