"""The clean-up kind of job: rows and files whose time has come go together."""

from datetime import timedelta
from typing import Any

from flask import current_app
from marshmallow import Schema
from sqlalchemy import delete, select

from backend.accounts.services import forget_expired_sessions
from backend.config import Settings
from backend.db import db_now, transaction
from backend.http.idempotency import forget_old
from backend.jobs.context import JobContext
from backend.jobs.kinds import Queue, job
from backend.jobs.models import Job, ScheduleSlot
from backend.jobs.schedules import Schedule
from backend.jobs.states import ENDED
from backend.storage import services as storage

AT_ONCE = 500
SLOTS_KEPT_SECONDS = 90 * 86400.0


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
    ctx.report("Removing expired files…", 0, "files")
    expired = storage.expire()
    ctx.report("Looking for what crashes left…", 0, "orphans")
    orphans = storage.sweep()
    freed = expired + orphans
    ctx.log(f"Freed {freed.bytes} bytes: {freed.files} files; {jobs} old jobs")
    return {
        "jobs": jobs,
        "files": expired.files,
        "orphans": orphans.files,
        "freed_bytes": freed.bytes,
    }


HOURLY_CLEAN_UP = Schedule(name="clean_up", cron="0 * * * *", kind=clean_up, catch_up="once")


def _remove_old_jobs(kept_seconds: float) -> int:
    """Remove ended jobs, a batch as one, once they are old; return how many."""
    with transaction() as session:
        old = (
            select(Job.id)
            .where(
                Job.state.in_(ENDED),
                Job.parent_id.is_(None),
                Job.ended_at < db_now(-float(kept_seconds)),
            )
            .limit(AT_ONCE)
        )
        ids = list(session.scalars(old))
        session.execute(delete(Job).where(Job.id.in_(ids)))
    return len(ids)
