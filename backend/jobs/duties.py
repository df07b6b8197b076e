"""The clean-up kind of job: rows and files whose time has come go together."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import current_app
from marshmallow import Schema
from sqlalchemy import Select, delete, select, update
from sqlalchemy.orm import Session

from backend.accounts.services import forget_expired_sessions
from backend.clock import utc_now
from backend.config import Settings
from backend.db import db, db_now, transaction
from backend.http.idempotency import forget_old
from backend.jobs.context import JobContext
from backend.jobs.kinds import Queue, job
from backend.jobs.models import IS_ACTIVE, Act, Job, JobInput, ScheduleSlot, Worker
from backend.jobs.schedules import Schedule
from backend.jobs.states import ENDED
from backend.storage import services as storage
from backend.storage import sweeping

AT_ONCE = 500
ORPHAN_AGE = timedelta(hours=1)
INPUTS_KEPT = timedelta(days=1)  # well beyond the next clean-up
SLOTS_KEPT_SECONDS = 90 * 86400.0
ACTS_KEPT_SECONDS = 366 * 86400.0
WORKERS_KEPT_SECONDS = 86400.0  # after the last sign of life


class NoParams(Schema):
    """A kind without parameters."""


@job(
    "jobs.clean_up",
    params=NoParams,
    queue=Queue.LOW,
    soft_limit=timedelta(minutes=30),
    stages={"jobs": 1, "files": 2, "orphans": 1},
)
def clean_up(ctx: JobContext) -> dict[str, Any]:
    """Remove old jobs, expired files, and what crashes left behind; tell how much was freed."""
    settings: Settings = current_app.config["SLUICE"]
    ctx.report("Removing old jobs…", 0, "jobs")
    jobs = 0
    while removed := _remove_old_jobs(settings.job_retention_seconds):
        jobs += removed
        ctx.check_cancelled()
    with transaction() as session:
        forget_old(session)
        forget_expired_sessions(session)
        old = ScheduleSlot.created_at < db_now(-SLOTS_KEPT_SECONDS)
        session.execute(delete(ScheduleSlot).where(old))
        forget_acts(session)
        session.execute(delete(Worker).where(Worker.seen_at < db_now(-WORKERS_KEPT_SECONDS)))
    ctx.report("Removing expired files…", 0, "files")
    with transaction() as session:
        _keep_inputs(session)
        expired = sweeping.expire(session, utc_now())
    ctx.report("Looking for what crashes left…", 0, "orphans")
    orphans = sweeping.sweep_orphans(db.session(), ORPHAN_AGE)
    freed = expired + orphans
    ctx.log(f"Freed {freed.bytes} bytes: {freed.files} files; {jobs} old jobs")
    return {
        "jobs": jobs,
        "files": expired.files,
        "orphans": orphans.files,
        "freed_bytes": freed.bytes,
    }


HOURLY_CLEAN_UP = Schedule(name="clean_up", cron="0 * * * *", kind=clean_up, catch_up="once")


def forget_acts(session: Session) -> None:
    """Forget what was done to many jobs over a year ago."""
    session.execute(delete(Act).where(Act.finished_at < db_now(-ACTS_KEPT_SECONDS)))


def _keep_inputs(session: Session) -> None:
    """Keep what active jobs are still to read: a backlog may be older than an upload's time."""
    needed = select(JobInput.file_id).join(Job, Job.id == JobInput.job_id).where(IS_ACTIVE)
    storage.keep_all_until(session, needed, utc_now() + INPUTS_KEPT)


def _remove_old_jobs(kept_seconds: float) -> int:
    """Remove ended jobs, a batch as one, once they are old; return how many.

    Children go first, a slice at a time: a transaction that removed a hundred thousand rows
    would hold up every other writer. So that nobody meets half a batch, its owner loses it before.
    """
    old = (Job.state.in_(ENDED), Job.ended_at < db_now(-float(kept_seconds)))
    with transaction() as session:
        found = select(Job.id).where(*old, Job.parent_id.is_(None)).limit(AT_ONCE)
        # Asked again by the UPDATE: one that is tried again just now stays.
        disowned = update(Job).where(Job.id.in_(found.scalar_subquery()), *old)
        ids = session.scalars(disowned.values(owner_id=None).returning(Job.id)).all()
    children = select(Job.id).where(Job.parent_id.in_(ids)).limit(AT_ONCE)
    while ids and _remove(children):
        pass
    return _remove(select(Job.id).where(Job.id.in_(ids))) if ids else 0


def _remove(chosen: Select[UUID]) -> int:
    with transaction() as session:
        removable = delete(Job).where(Job.id.in_(chosen.scalar_subquery()))
        return len(session.scalars(removable.returning(Job.id)).all())
