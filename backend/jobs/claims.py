"""The claim: which job a free slot runs next, and the fence that makes it the attempt's own."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Row,
    Select,
    String,
    bindparam,
    func,
    insert,
    literal,
    null,
    select,
    update,
)
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningUpdate

from backend.db import db_now, random_uuid, table_of
from backend.jobs.ledger import TOLD, record_events, recording
from backend.jobs.models import (
    IS_READY,
    Attempt,
    Job,
    Pause,
    PauseScope,
)
from backend.jobs.signals import announce
from backend.jobs.states import READY, JobState

_jobs, _attempts, _pauses = map(table_of, (Job, Attempt, Pause))
_NOBODY: ColumnElement[str] = literal("")

OVERDUE_SECONDS = 20.0  # what a job waits at most behind those that go before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """An attempt as every write of it names it."""

    job_id: UUID
    token: UUID
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Fence):
    """A job that a slot holds, for as long as the lease is renewed."""

    attempts_left: int
    kind: str
    params: dict[str, Any]
    owner_id: int | None
    parent_id: UUID | None
    checkpoint: dict[str, Any] | None
    request_id: str

    @property
    def fence(self) -> Fence:
        """What every write of the attempt names."""
        return Fence(job_id=self.job_id, token=self.token, attempt=self.attempt)


@dataclass(frozen=True, slots=True)
class Level:
    """The jobs of a queue that have a priority, or no more than it."""

    queue: str
    priority: int


def ready_in(queue: ColumnElement[str], worker: ColumnElement[str] = _NOBODY) -> Select[UUID]:
    """The jobs that a queue's slots may take, in the order in which they should.

    The message that woke the worker says that there may be work, but the ledger chooses: the
    most urgent that is due, whose owner's turn it is. So order, pauses and fairness are decided
    here and not by the broker, and a lost or doubled message costs nothing.
    """
    return (
        select(_jobs.c.id)
        .where(_jobs.c.queue == queue, IS_READY, _jobs.c.run_at <= db_now(), *_not_paused(worker))
        .order_by(_jobs.c.priority.desc(), _jobs.c.turn_at, _jobs.c.id)
    )


def next_ready(queue: ColumnElement[str], worker: ColumnElement[str] = _NOBODY) -> Select[UUID]:
    """The job that a queue's next free slot should take; no other slot waits for its row."""
    return ready_in(queue, worker).limit(1).with_for_update(skip_locked=True)


def overdue(
    queue: ColumnElement[str], priority: ColumnElement[int], worker: ColumnElement[str]
) -> Select[UUID]:
    """The job that has waited for too long at a level, if there is one."""
    return next_ready(queue, worker).where(
        _jobs.c.priority <= priority, _jobs.c.run_at <= db_now(-OVERDUE_SECONDS)
    )


def _not_paused(worker: ColumnElement[str]) -> tuple[ColumnElement[bool], ...]:
    def names(scope: PauseScope) -> Select[str]:
        return select(_pauses.c.name).where(_pauses.c.scope == scope)

    return (
        _jobs.c.queue.not_in(names(PauseScope.QUEUE)),
        _jobs.c.kind.not_in(names(PauseScope.KIND)),
        worker.not_in(names(PauseScope.WORKER)),
    )


@dataclass(frozen=True, slots=True)
class Slot:
    """Who claims. `name` is `<worker>/<process>`, `queues` what it serves, the first first."""

    name: str
    queues: tuple[str, ...]
    lease_seconds: float


def claim(session: Session, slot: Slot, *, most: int = 1, aged: Level | None = None) -> list[Claim]:
    """Take the next jobs of the first of the slot's queues in which any is ready.

    Returns at most so many, in the order in which they are to run; none when there is nothing to
    do. It is a conditional UPDATE: of two slots that want the same job, one finds no row. A job
    that is overdue at the level `aged` is taken before all others, alone: a slot that asks for
    each level now and then leaves none of them waiting for ever.
    """
    values = {
        "worker": slot.name.rpartition("/")[0],
        "slot": slot.name,
        "lease_seconds": slot.lease_seconds,
    }
    taken: Sequence[Row[Any]] = ()
    if aged is not None:
        level = {"aged_queue": aged.queue, "aged_priority": aged.priority}
        taken = _take(session, _TAKING_OVERDUE, values | level)
    if not taken:
        taken = _take(session, _taking_of(slot.queues), values | {"most": most})
    if not taken and len(slot.queues) > 1:
        # Another slot may just be taking the only job of the first queue that had one.
        for queue in slot.queues:
            taken = taken or _take(session, _taking_of((queue,)), values | {"most": most})
    for job in taken:
        announce(session, job)
    return [
        Claim(
            job_id=job.id,
            token=job.token,
            attempt=job.attempt,
            attempts_left=job.max_attempts - (job.attempt - job.uncharged),
            kind=job.kind,
            params=job.params,
            owner_id=job.owner_id,
            parent_id=job.parent_id,
            checkpoint=job.checkpoint,
            request_id=job.request_id,
        )
        for job in sorted(taken, key=lambda job: (-job.priority, job.turn_at, job.id))
    ]


def _take(
    session: Session, taking: ReturningUpdate[Any], values: dict[str, Any]
) -> Sequence[Row[Any]]:
    """Take the jobs of an UPDATE, and write that their attempts have begun."""
    if session.get_bind().dialect.name == "postgresql":  # one way to the server, not three
        return session.execute(_with_its_attempts(taking), values).all()
    taken = session.execute(taking, values).all()
    if taken:
        attempts = [
            {"job_id": job.id, "number": job.attempt, "token": job.token, "slot": job.worker}
            for job in taken
        ]
        session.execute(_BEGINNING, attempts)
        record_events(session, taken)
    return taken


# The statements of the way that every job goes are made once: SQLAlchemy takes longer to build
# one than to run it. Their parameters have names that no column has.


_WORKER = bindparam("worker", type_=String)


@cache
def _taking_of(queues: tuple[str, ...]) -> ReturningUpdate[Any]:
    first = [
        ready_in(literal(queue), _WORKER)
        .with_only_columns(literal(queue))
        .order_by(None)
        .limit(1)
        .scalar_subquery()
        for queue in queues
    ]
    queue = func.coalesce(*first, null())
    return _taking(next_ready(queue, _WORKER).limit(bindparam("most", type_=Integer)))


def _taking(chosen: Select[UUID]) -> ReturningUpdate[Any]:
    # Looked for once, before the rows are written: a plan that looked again for each row would
    # take more of them than wanted.
    ids = chosen.cte("chosen").prefix_with("MATERIALIZED", dialect="postgresql")
    return (
        update(_jobs)
        # Spelled otherwise than IS_READY, or SQLite would look through all that are.
        .where(_jobs.c.id.in_(select(ids.c.id)), _jobs.c.state.in_(READY))
        .values(
            state=JobState.RUNNING,
            attempt=_jobs.c.attempt + 1,
            token=random_uuid(),
            lease_expires_at=db_now(bindparam("lease_seconds", type_=Float)),
            started_at=db_now(),
            worker=bindparam("slot"),
            version=_jobs.c.version + 1,
        )
        .returning(
            *TOLD,
            *(
                _jobs.c[name]
                for name in [
                    "token",
                    "uncharged",
                    "max_attempts",
                    "kind",
                    "params",
                    "checkpoint",
                    "request_id",
                    "priority",
                    "turn_at",
                    "worker",
                ]
            ),
        )
    )


_TAKING_OVERDUE = _taking(
    overdue(
        bindparam("aged_queue", type_=String), bindparam("aged_priority", type_=Integer), _WORKER
    )
)
_BEGINNING = insert(_attempts).values(started_at=db_now(), worker=bindparam("slot"))


@cache
def _with_its_attempts(taking: ReturningUpdate[Any]) -> Select[Any]:
    taken = taking.cte("taken")
    begun = select(taken.c.id, taken.c.attempt, taken.c.token, taken.c.worker, db_now())
    columns = ["job_id", "number", "token", "worker", "started_at"]
    return select(taken).add_cte(
        insert(_attempts).from_select(columns, begun).cte("begun"),
        recording(taken).cte("told"),
    )
