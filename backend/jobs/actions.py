"""What is done to jobs with the kinds of the application at hand."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from flask import current_app
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import db, transaction
from backend.errors import AppError, Conflict
from backend.jobs import batches, ledger, queries
from backend.jobs.kinds import JobKind, Kinds
from backend.jobs.models import Job


def kind_of(job: Job) -> JobKind[Any, Any]:
    """A job's kind; Conflict if this version of the application has no such kind."""
    kind: JobKind[Any, Any] | None = current_app.extensions["sluice.kinds"].get(job.kind)
    if kind is None:
        raise Conflict(f"No kind of job is called {job.kind!r} in this version.")
    return kind


def retry(session: Session, job: Job) -> Job:
    """Try a job again; of a batch only what failed."""
    if job.parent_id is not None:
        parent = session.get_one(Job, job.parent_id)
        return batches.retry_child(session, job, kind_of(job), parent, kind_of(parent))
    first = session.scalars(select(Job).where(Job.parent_id == job.id).limit(1)).one_or_none()
    each = kind_of(first) if first is not None else None
    return batches.retry(session, job, kind_of(job), each)


def tell_parent(parent_id: UUID | None) -> None:
    """Release the batch if this was its last child; else show how far it is."""
    if parent_id is None:
        return
    with transaction() as session:
        if batches.release(session, parent_id) is None:
            batches.roll_up(session, parent_id, children_share(session.get(Job, parent_id)))


def stop_children(seconds: float) -> int:
    """Stop, for so many seconds, what is left of large batches that were cancelled; how many."""
    until = time.monotonic() + seconds
    total = 0
    while time.monotonic() < until and (stopped := batches.stop_children()):
        total += stopped
    return total


def children_share(parent: Job | None) -> float:
    """The part of a batch's progress bar that its children fill: its kind's first stage."""
    kinds: Kinds = current_app.extensions["sluice.kinds"]
    kind = kinds.get(parent.kind) if parent else None
    return kind.share(next(iter(kind.stages)))[1] if kind else 1.0


def act(session: Session, action: str, job: Job, *, by: int, force: bool) -> None:
    """Do one of the bulk actions to one job."""
    if action == "cancel":
        batches.cancel(session, job, by=by, force=force)
    elif action == "retry":
        retry(session, job)
    else:
        ledger.remove(session, job)


def act_on_each(
    owner_id: int,
    action: str,
    ids: Sequence[UUID],
    *,
    force: bool,
    elsewhere: Callable[[Job], bool] = lambda _: False,
) -> dict[str, Any]:
    """Do an action to each of an owner's jobs, in a transaction of its own.

    `elsewhere` says that a job is so large that it was seen to in another way. Tells what was not
    possible, and why.
    """
    done, problems = 0, []
    for job_id in dict.fromkeys(ids):
        try:
            job = queries.owned(db.session(), owner_id, job_id)
            if not elsewhere(job):
                with transaction() as session:
                    job = queries.owned(session, owner_id, job_id)
                    act(session, action, job, by=owner_id, force=force)
            tell_parent(job.parent_id)
            done += 1
        except AppError as error:
            problems.append({"job_id": job_id, "error": error.detail})
    return {"success": True, "matched": len(ids), "done": done, "problems": problems}
