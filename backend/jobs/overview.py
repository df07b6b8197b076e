"""What operators look at: all jobs, queues, kinds and workers, and what is paused or drained."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session

from backend.accounts.models import User
from backend.accounts.services import find_by_email
from backend.db import db, db_now
from backend.errors import NotFound
from backend.http.pagination import Page, page_of
from backend.jobs import workers
from backend.jobs.kinds import Queue
from backend.jobs.models import IS_LEASED, IS_READY, Job, Pause, PauseScope, Worker
from backend.jobs.orders import kinds
from backend.jobs.pauses import paused
from backend.jobs.queries import WORKER_SECONDS, Filter, id_of

# Held by a slot: a batch that is being cancelled is leased by nobody.
IS_HELD = and_(IS_LEASED, Job.worker.is_not(None), Job.lease_expires_at.is_not(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue: what waits in it, who serves it, and whether it is paused."""

    name: str
    ready: int
    later: int  # wait for their time
    running: int
    oldest_wait_seconds: float
    slots: int
    drained_slots: int
    pause: Pause | None


@dataclass(frozen=True, slots=True, kw_only=True)
class KindView:
    """A kind: how many jobs of it are in each state, and whether it is paused."""

    name: str
    title: str
    queue: str | None  # None: this version of the application has no such kind
    states: dict[str, int]
    pause: Pause | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A worker as it last reported, with what it runs."""

    name: str
    queues: Sequence[str]
    slots: int
    started_at: datetime | None  # None: drained, and not there
    seen_at: datetime | None
    is_alive: bool
    running: Sequence[Any]  # rows: id, kind, label, worker, started_at, state
    pause: Pause | None

    @property
    def busy(self) -> int:
        """How many of its slots hold a job."""
        return len(self.running)

    @property
    def is_free(self) -> bool:
        """Whether it is drained, and the last of its slots is free: it may be stopped."""
        return self.pause is not None and not self.running


def owner_id_of(session: Session, email: str) -> int:
    """The id of an account; NotFound where the address has none."""
    user = find_by_email(session, email)
    if user is None:
        raise NotFound(f"No account has the address {email[:254]!r}.", code="owner_not_found")
    return user.id


def jobs_page(
    session: Session, wanted: Filter, cursor: str | None, limit: int
) -> Page[tuple[Job, str | None]]:
    """A page of everybody's jobs with their owners' addresses, the newest first."""
    query = (
        select(Job, User.email)
        .outerjoin(User, User.id == Job.owner_id)
        .where(*wanted.conditions())
        .order_by(Job.id.desc())
        .limit(limit + 1)
    )
    if cursor:
        query = query.where(Job.id < id_of(cursor))
    rows = [(job, email) for job, email in session.execute(query)]
    return page_of(rows, limit, lambda row: [row[0].id.hex])


def queues() -> list[QueueView]:
    """Every queue."""
    now = db.session.scalars(select(db_now())).one()
    due = case((Job.run_at <= now, 1), else_=0)
    waiting = select(
        Job.queue,
        func.sum(due),
        func.sum(1 - due),
        func.min(case((Job.run_at <= now, Job.run_at))),
    ).where(IS_READY)
    found = {row[0]: row for row in db.session.execute(waiting.group_by(Job.queue))}
    held = select(Job.queue, func.count()).where(IS_HELD).group_by(Job.queue)
    running: dict[str, int] = dict(db.session.execute(held).all())
    pauses, drained = paused(PauseScope.QUEUE), paused(PauseScope.WORKER)
    alive = workers.seen_within(WORKER_SECONDS)
    db.session.commit()
    views = []
    for queue in Queue:
        _, ready, later, since = found.get(queue, (queue, 0, 0, None))
        serving = [worker for worker in alive if queue in worker.queues]
        views.append(
            QueueView(
                name=queue.value,
                ready=ready,
                later=later,
                running=running.get(queue, 0),
                oldest_wait_seconds=max(0.0, (now - since).total_seconds()) if since else 0.0,
                slots=sum(worker.slots for worker in serving),
                drained_slots=sum(one.slots for one in serving if one.name in drained),
                pause=pauses.get(queue.value),
            )
        )
    return views


def kinds_list() -> list[KindView]:
    """Every kind that the application has, or of which there are jobs."""
    states: dict[str, dict[str, int]] = defaultdict(dict)
    counts = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
    for name, state, count in db.session.execute(counts):
        states[name][state] = count
    pauses = paused(PauseScope.KIND)
    db.session.commit()
    known = kinds()
    return [
        KindView(
            name=name,
            title=known[name].title if name in known else "",
            queue=known[name].queue.value if name in known else None,
            states=states.get(name, {}),
            pause=pauses.get(name),
        )
        for name in sorted({*known, *states})
    ]


def workers_list() -> list[WorkerView]:
    """Every worker that reported in the last day, and those that are drained."""
    running: dict[str, list[Any]] = defaultdict(list)
    held = select(Job.id, Job.kind, Job.label, Job.state, Job.worker, Job.started_at)
    for row in db.session.execute(held.where(IS_HELD).order_by(Job.started_at)):
        running[row.worker.rpartition("/")[0]].append(row)
    pauses = paused(PauseScope.WORKER)
    seen = {worker.name: worker for worker in db.session.scalars(select(Worker))}
    alive = {worker.name for worker in workers.seen_within(WORKER_SECONDS)}
    db.session.commit()
    return [
        WorkerView(
            name=name,
            queues=seen[name].queues if name in seen else [],
            slots=seen[name].slots if name in seen else 0,
            started_at=seen[name].started_at if name in seen else None,
            seen_at=seen[name].seen_at if name in seen else None,
            is_alive=name in alive,
            running=running[name],
            pause=pauses.get(name),
        )
        for name in sorted({*seen, *pauses, *running})
    ]
