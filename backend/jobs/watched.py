"""What changed of all that is watched: a number of queries that does not grow with the watchers."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from backend.accounts.models import User
from backend.jobs.models import Job, JobEvent
from backend.jobs.queries import SETTLED
from backend.jobs.states import JobState

# What changes without an event: only these make progress.
UNDER_WAY = (JobState.RUNNING, JobState.CANCELLING, JobState.WAITING)


def versions(session: Session, job_ids: Collection[UUID]) -> dict[UUID, int]:
    """The version of each of these jobs that is there."""
    if not job_ids:
        return {}
    query = select(Job.id, Job.version).where(Job.id.in_(job_ids))
    return {row.id: row.version for row in session.execute(query)}


def last_events(session: Session, owner_ids: Collection[int]) -> dict[int, int]:
    """The id of the newest event that can be seen of each of these owners who has one."""
    if not owner_ids:
        return {}
    newest = (
        select(JobEvent.id)
        .where(JobEvent.owner_id == User.id, SETTLED)
        .order_by(JobEvent.txid.desc(), JobEvent.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    found = session.execute(select(User.id, newest).where(User.id.in_(owner_ids)))
    return {owner_id: event_id for owner_id, event_id in found if event_id is not None}


def under_way(
    session: Session, owner_ids: Collection[int], most: int
) -> dict[int, dict[UUID, int]]:
    """By owner, the versions of the jobs that make progress; the newest `most` of all."""
    if not owner_ids:
        return {}
    query = (
        select(Job.owner_id, Job.id, Job.version)
        .where(Job.owner_id.in_(owner_ids), Job.parent_id.is_(None), Job.state.in_(UNDER_WAY))
        .order_by(Job.id.desc())
        .limit(most)
    )
    found: dict[int, dict[UUID, int]] = {}
    for owner_id, job_id, version in session.execute(query):
        if owner_id is not None:
            found.setdefault(owner_id, {})[job_id] = version
    return found


def jobs(session: Session, job_ids: Collection[UUID]) -> dict[UUID, Job]:
    """These jobs as they are now, without what only their runs need."""
    if not job_ids:
        return {}
    query = select(Job).where(Job.id.in_(job_ids)).execution_options(populate_existing=True)
    query = query.options(defer(Job.params), defer(Job.result), defer(Job.checkpoint))
    return {job.id: job for job in session.scalars(query)}
