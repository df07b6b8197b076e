"""What goes out once a change of the ledger has committed: the doorbell, and news for watchers.

Both are hints. A ring that is lost is rung again by the steward; a piece of news that is lost is
found in the ledger. So neither may hold up or fail the transaction that it follows.
"""

from collections.abc import Sequence
from typing import Any, Protocol
from uuid import UUID

from flask import current_app
from sqlalchemy import Row
from sqlalchemy.orm import Session

from backend.db import after_commit
from backend.jobs.models import Job


class Doorbell(Protocol):
    """Tells a queue's workers that jobs may be ready."""

    def ring(self, queue: str, job_ids: Sequence[UUID]) -> None:
        """Send one message per job id, without waiting for the broker."""


class Announcer(Protocol):
    """Tells watchers that jobs changed."""

    def announce(self, news: Sequence[dict[str, Any]]) -> None:
        """Send the news to all web processes, without waiting."""


def ring(session: Session, queue: str, job_ids: Sequence[UUID]) -> None:
    """Ring for these jobs after the commit."""
    bell: Doorbell = current_app.extensions["sluice.doorbell"]
    after_commit(session, lambda: bell.ring(queue, job_ids))


def announce(session: Session, job: Job | Row[Any]) -> None:
    """Tell watchers of the job, and of its batch, after the commit.

    All that a transaction changed is told at once. A job without an owner is watched by nobody.
    """
    if job.owner_id is None:
        return
    news: list[dict[str, Any]] = session.info.setdefault("news", [])
    if not news:
        announcer: Announcer = current_app.extensions["sluice.announcer"]
        after_commit(session, lambda: announcer.announce(session.info.pop("news")))
    parent_id = job.parent_id.hex if job.parent_id else None
    news.append(
        {
            "job_id": job.id.hex,
            "owner_id": job.owner_id,
            "parent_id": parent_id,
            "version": job.version,
        }
    )
