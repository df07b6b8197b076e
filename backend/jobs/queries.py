"""Reading the ledger: one job, lists, what happened since, why a job waits, when it is done."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from flask import current_app
from sqlalchemy import ColumnElement, Select, func, select, tuple_
from sqlalchemy.orm import Session, selectinload

from backend.db import db_now, oldest_transaction_id
from backend.errors import NotFound
from backend.http.pagination import Page, decode_cursor, encode_cursor, not_a_cursor, page_of
from backend.jobs.models import (
    IS_ACTIVE,
    IS_READY,
    Attempt,
    Job,
    JobEvent,
    LogLine,
    Pause,
    PauseScope,
    Worker,
)
from backend.jobs.states import JobState, as_shown

RECENT_RUNS = 50  # of a kind, from which its duration is foretold
FEWEST_RUNS = 5  # fewer tell nothing
WORKER_SECONDS = 60.0
WINDOW = 4_000  # jobs that one look passes, where no index finds what is wanted
LOOK_SECONDS = 0.04
LONG_SECONDS = 5.0  # for the first in its queue to wait


def owned(session: Session, owner_id: int, job_id: UUID) -> Job:
    """The owner's job; NotFound for an unknown id and for another's alike."""
    found = session.scalars(
        select(Job)
        .where(Job.id == job_id, Job.owner_id == owner_id)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if found is None:
        raise NotFound(f"There is no job {job_id}.")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which jobs; what is None does not matter."""

    state: Sequence[str] | None = None
    kind: str | None = None
    queue: str | None = None
    q: str | None = None  # a part of the label
    since: datetime | None = None
    before: datetime | None = None
    parent_id: UUID | None = None
    owner_id: int | None = None
    ids: Sequence[UUID] | None = None
    with_children: bool = True  # without a parent: whether batches' jobs are matched as well

    def apply(self, query: Select[Any], owner_id: int) -> Select[Any]:
        """Add the conditions, and that the jobs are an owner's, batches as one."""
        return query.where(*self.of_owner(owner_id).conditions())

    def of_owner(self, owner_id: int) -> "Filter":
        """The same for an owner's jobs alone, batches as one unless a batch is named."""
        return replace(self, owner_id=owner_id, with_children=False)

    @property
    def is_indexed(self) -> bool:
        """Whether an index of an owner's jobs finds all that are matched, and no others."""
        sorts = [self.state, self.kind, self.queue, self.q]
        return not (self.queue or self.q) and sum(map(bool, sorts)) <= 1

    def conditions(self) -> list[ColumnElement[bool]]:
        """What a job must be."""
        wanted: list[ColumnElement[bool]] = []
        if self.owner_id is not None:
            wanted.append(Job.owner_id == self.owner_id)
        if self.parent_id is not None:
            wanted.append(Job.parent_id == self.parent_id)
        elif not self.with_children:
            wanted.append(Job.parent_id.is_(None))
        if self.state:
            wanted.append(Job.state.in_(self.state))
        if self.kind:
            wanted.append(Job.kind == self.kind)
        if self.queue:
            wanted.append(Job.queue == self.queue)
        if self.q:
            wanted.append(Job.label.icontains(self.q, autoescape=True))
        if self.since:
            wanted.append(Job.id >= first_id_at(self.since))
        if self.before:
            wanted.append(Job.id < first_id_at(self.before))
        if self.ids is not None:
            wanted.append(Job.id.in_(self.ids))
        return wanted

    def as_json(self) -> dict[str, Any]:
        """Plain values, of which `from_json` makes the filter again."""
        values = {
            **{name: getattr(self, name) for name in ("kind", "queue", "q", "owner_id")},
            "state": list(self.state) if self.state else None,
            "since": self.since and self.since.isoformat(),
            "before": self.before and self.before.isoformat(),
            "parent_id": self.parent_id and str(self.parent_id),
            "ids": None if self.ids is None else [str(job_id) for job_id in self.ids],
            "with_children": None if self.with_children else False,
        }
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Filter":
        """Make the filter of what `as_json` gave."""
        read = dict(values)
        for name in ("since", "before"):
            if name in read:
                read[name] = datetime.fromisoformat(read[name])
        if "parent_id" in read:
            read["parent_id"] = UUID(read["parent_id"])
        if "ids" in read:
            read["ids"] = [UUID(job_id) for job_id in read["ids"]]
        return cls(**read)


def first_id_at(when: datetime) -> UUID:
    """The smallest id that a job made at that time can have: ids sort by time (RFC 9562, v7)."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = max(0, (when - epoch) // timedelta(milliseconds=1))
    return UUID(int=milliseconds << 80)


def jobs_page(
    session: Session, owner_id: int, wanted: Filter, cursor: str | None, limit: int
) -> Page[Job]:
    """A page of an owner's jobs, the newest first.

    Where no index finds what is wanted, so many jobs are looked through as can be in
    `LOOK_SECONDS`. So a page may be short, or empty, and have a next one all the same.
    """
    wanted = wanted.of_owner(owner_id)
    newest_first = select(Job).where(*wanted.conditions()).order_by(Job.id.desc())
    below = id_of(cursor) if cursor else None
    until = time.monotonic() + LOOK_SECONDS
    rows: list[Job] = []
    while True:
        window = newest_first.limit(limit + 1 - len(rows))
        if below is not None:
            window = window.where(Job.id < below)
        floor = None if wanted.is_indexed else _floor(session, wanted, below)
        if floor is not None:
            window = window.where(Job.id >= floor)
        rows += session.scalars(window)
        if floor is None or len(rows) > limit:
            return page_of(rows, limit, lambda job: [job.id.hex])
        if time.monotonic() > until:
            return Page(rows, encode_cursor([floor.hex]))
        below = floor


def _floor(session: Session, wanted: Filter, below: UUID | None) -> UUID | None:
    """The last of the jobs that a look passes; None if it passes all that there are."""
    all_jobs = Filter(owner_id=wanted.owner_id, parent_id=wanted.parent_id, with_children=False)
    passed = select(Job.id).where(*all_jobs.conditions()).order_by(Job.id.desc())
    if below is not None:
        passed = passed.where(Job.id < below)
    return session.scalars(passed.offset(WINDOW - 1).limit(1)).one_or_none()


def children_page(session: Session, parent: Job, cursor: str | None, limit: int) -> Page[Job]:
    """A page of a batch's children, in the order of their items."""
    query = select(Job).where(Job.parent_id == parent.id).order_by(Job.item).limit(limit + 1)
    if cursor:
        (item,) = decode_cursor(cursor, int)
        query = query.where(Job.item > item)
    return page_of(session.scalars(query).all(), limit, lambda job: [job.item])


def children(session: Session, parent_id: UUID) -> Sequence[Job]:
    """All children of a batch with their artifacts, in the order of their items."""
    query = select(Job).where(Job.parent_id == parent_id).order_by(Job.item)
    return session.scalars(
        query.options(selectinload(Job.artifacts)).execution_options(populate_existing=True)
    ).all()


def children_version(session: Session, parent_id: UUID) -> int:
    """A number that every change of any child of a batch makes larger."""
    versions = select(func.coalesce(func.sum(Job.version), 0)).where(Job.parent_id == parent_id)
    return session.scalar(versions) or 0


def active(session: Session, owner_id: int, most: int) -> Sequence[Job]:
    """An owner's jobs that have not ended, without the children of batches."""
    query = select(Job).where(Job.owner_id == owner_id, Job.parent_id.is_(None), IS_ACTIVE)
    query = query.order_by(Job.id.desc()).limit(most)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def among(session: Session, owner_id: int, ids: Collection[UUID]) -> Sequence[Job]:
    """Those of an owner's jobs that have these ids."""
    if not ids:
        return []
    query = select(Job).where(Job.owner_id == owner_id, Job.id.in_(ids))
    return session.scalars(query.execution_options(populate_existing=True)).all()


def attempts(session: Session, job: Job) -> Sequence[Attempt]:
    """A job's attempts, the first first."""
    query = select(Attempt).where(Attempt.job_id == job.id).order_by(Attempt.number)
    return session.scalars(query).all()


def log_page(session: Session, job: Job, cursor: str | None, limit: int) -> Page[LogLine]:
    """A page of what a job logged, the oldest first."""
    query = select(LogLine).where(LogLine.job_id == job.id).order_by(LogLine.id).limit(limit + 1)
    if cursor:
        (after,) = decode_cursor(cursor, int)
        query = query.where(LogLine.id > after)
    return page_of(session.scalars(query).all(), limit, lambda line: [line.id])


class Place(NamedTuple):
    """An event's place in the order in which events can be seen (see `JobEvent`)."""

    txid: int
    id: int


@dataclass(frozen=True, slots=True)
class Happened:
    """An event, and the state that it shows to callers."""

    event: JobEvent
    state: JobState

    @property
    def place(self) -> Place:
        """Where a reader of this event goes on."""
        return Place(self.event.txid, self.event.id)


MOST_EVENTS = 500  # that one look brings
# Nothing can turn up before such an event any more.
SETTLED = JobEvent.txid < oldest_transaction_id()


def events_of_job(session: Session, job_id: UUID, after: Place) -> list[Happened]:
    """What happened to a job after an event, the oldest first."""
    return _happened(
        session,
        select(JobEvent, Job.items_total)
        .join(Job, Job.id == JobEvent.job_id)
        .where(JobEvent.job_id == job_id, JobEvent.id > after.id)
        .order_by(JobEvent.id),
    )


def events_of_owner(session: Session, owner_id: int, after: Place) -> list[Happened]:
    """What happened to an owner's jobs after an event, without the children of batches."""
    order = tuple_(JobEvent.txid, JobEvent.id)
    return _happened(
        session,
        select(JobEvent, Job.items_total)
        .join(Job, Job.id == JobEvent.job_id)
        .where(JobEvent.owner_id == owner_id, order > tuple_(*after), SETTLED)
        .order_by(JobEvent.txid, JobEvent.id),
    )


def _happened(session: Session, query: Select[JobEvent, int | None]) -> list[Happened]:
    return [
        Happened(event, as_shown(event.state, begun=bool(event.attempt) or total is not None))
        for event, total in session.execute(query.limit(MOST_EVENTS))
    ]


def last_place(session: Session, owner_id: int, job_id: UUID | None = None) -> Place:
    """The place of the newest event of a job, or of an owner; the very first without any."""
    query = select(JobEvent.txid, JobEvent.id).limit(1)
    if job_id is not None:
        query = query.where(JobEvent.job_id == job_id).order_by(JobEvent.id.desc())
    else:
        query = query.where(JobEvent.owner_id == owner_id, SETTLED)
        query = query.order_by(JobEvent.txid.desc(), JobEvent.id.desc())
    newest = session.execute(query).one_or_none()
    return Place(*newest) if newest else Place(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a job does not run yet."""

    reason: str  # children, scheduled, retry_due, paused, no_worker, drained, broker_down, queued
    message: str
    position: int | None = None
    due_at: datetime | None = None


def why_waiting(session: Session, job: Job) -> Waiting | None:
    """Say why a job waits; None when it does not."""
    if job.state == JobState.WAITING:
        message = f"Waiting for {(job.items_total or 0) - (job.items_done or 0)} items."
        return Waiting(reason="children", message=message)
    if job.state not in {JobState.QUEUED, JobState.RETRYING}:
        return None
    if job.run_at > _now(session) + timedelta(seconds=1):
        reason = "retry_due" if job.state == JobState.RETRYING else "scheduled"
        return Waiting(
            reason=reason, message=f"Due at {job.run_at:%H:%M:%S} UTC.", due_at=job.run_at
        )
    return _stopped(session, job) or _in_line(session, job)


def _stopped(session: Session, job: Job) -> Waiting | None:
    """What keeps a job from being claimed however long it waits."""
    for scope, name in ((PauseScope.QUEUE, job.queue), (PauseScope.KIND, job.kind)):
        pause = session.get(Pause, (scope, name))
        if pause is not None:
            message = f"The {scope.value} {name} is paused. {pause.reason}".strip()
            return Waiting(reason="paused", message=message)
    recent = session.scalars(select(Worker).where(Worker.seen_at > db_now(-WORKER_SECONDS)))
    serving = [worker.name for worker in recent if job.queue in worker.queues]
    if not serving:
        message = f"No worker serves the queue {job.queue} just now."
        return Waiting(reason="no_worker", message=message)
    drained = select(Pause.name).where(Pause.scope == PauseScope.WORKER, Pause.name.in_(serving))
    if len(session.scalars(drained).all()) == len(serving):
        message = f"All workers of the queue {job.queue} are drained: {', '.join(serving)}."
        return Waiting(reason="drained", message=message)
    return None


def _in_line(session: Session, job: Job) -> Waiting:
    ahead = _ahead_of(session, job)
    # The broker is asked only where the ledger knows no reason why the job should still wait.
    long = job.run_at < _now(session) - timedelta(seconds=LONG_SECONDS)
    if ahead == 0 and long and not _broker_answers():
        message = "The broker cannot be reached; jobs start again once it is back."
        return Waiting(reason="broker_down", message=message, position=1)
    return Waiting(reason="queued", message=f"Number {ahead + 1} in the queue.", position=ahead + 1)


def _now(session: Session) -> datetime:
    """The database's clock, which alone says what is due."""
    return session.scalars(select(db_now())).one()


def _broker_answers() -> bool:
    try:
        current_app.extensions["sluice.broker_depths"]()
    except Exception:  # noqa: BLE001 - each broker has errors of its own
        return False
    return True


def _ahead_of(session: Session, job: Job) -> int:
    """How many ready jobs the queue takes first; counted up to a thousand."""
    first = (Job.priority > job.priority) | (
        (Job.priority == job.priority) & (Job.turn_at < job.turn_at)
    )
    ahead = select(Job.id).where(Job.queue == job.queue, IS_READY, first, Job.id != job.id)
    return session.scalar(select(func.count()).select_from(ahead.limit(1000).subquery())) or 0


@dataclass(frozen=True, slots=True)
class Eta:
    """When a running job will be done: seconds from now, likely earliest and latest."""

    low: float
    high: float


def eta(session: Session, job: Job) -> Eta | None:
    """Foretell from how long the kind's recent runs took; None without a history."""
    if job.state != JobState.RUNNING or job.started_at is None:
        return None
    runs = session.execute(
        select(Job.started_at, Job.ended_at)
        .where(Job.kind == job.kind, Job.state == JobState.SUCCEEDED, Job.ended_at.is_not(None))
        .order_by(Job.ended_at.desc())
        .limit(RECENT_RUNS)
    ).all()
    took = sorted((end - start).total_seconds() for start, end in runs if start and end)
    if len(took) < FEWEST_RUNS:
        return None
    ran = (_now(session) - job.started_at).total_seconds()
    low, high = took[len(took) // 10], took[-1 - len(took) // 10]
    return Eta(low=max(0.0, low - ran), high=max(0.0, high - ran))


def explained(session: Session, job: Job) -> Job:
    """The job, with why it waits and when it will be done, for those who show it."""
    # No columns: both are asked for one job at a time, and hold for a moment.
    job.waiting, job.eta_seconds = why_waiting(session, job), eta(session, job)  # type: ignore[attr-defined]
    return job


def id_of(cursor: str) -> UUID:
    """The id that a cursor names; InvalidInput for one that no list gave out."""
    (value,) = decode_cursor(cursor, str)
    try:
        return UUID(hex=value)
    except ValueError:
        raise not_a_cursor(cursor) from None
