"""The ledger's tables: the truth about jobs."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnClause,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

from backend.db import Base, transaction_id
from backend.jobs.states import JobState
from backend.storage.models import StoredFile

# Spelled out as SQL, so that a query's condition is the partial index's to the letter.
IS_READY: ColumnClause[bool] = literal_column("state IN ('queued', 'retrying')")
IS_LEASED: ColumnClause[bool] = literal_column("state IN ('running', 'cancelling')")
IS_ACTIVE: ColumnClause[bool] = literal_column("state NOT IN ('succeeded', 'failed', 'cancelled')")
# A batch whose children are not all done, also one that is asked to stop.
IS_PARKED: ColumnClause[bool] = literal_column(
    "state IN ('waiting', 'cancelling') AND lease_expires_at IS NULL"
)

IS_UNFINISHED: ColumnClause[bool] = literal_column("finished_at IS NULL")

# SQLite counts rows only in a column declared INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")


class Job(Base):
    """One row of the ledger. Only `ledger`, `attempts` and `batches` write it."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(
            "ix_jobs_ready",
            "queue",
            text("priority DESC"),
            "turn_at",
            "id",
            # Not for the order: a job that is not due yet, or is paused, is passed over unread.
            "run_at",
            "kind",
            postgresql_where=IS_READY,
            sqlite_where=IS_READY,
        ),
        Index(
            "ix_jobs_turns",
            "owner_id",
            "queue",
            "turn_at",
            postgresql_where=IS_READY,
            sqlite_where=IS_READY,
        ),
        Index(
            "ix_jobs_leases", "lease_expires_at", postgresql_where=IS_LEASED, sqlite_where=IS_LEASED
        ),
        Index("ix_jobs_parked", "id", postgresql_where=IS_PARKED, sqlite_where=IS_PARKED),
        Index("ix_jobs_children", "parent_id", "state"),
        Index("ix_jobs_items", "parent_id", "item"),
        Index("ix_jobs_owner", "owner_id", "parent_id", "id"),
        Index("ix_jobs_owner_state", "owner_id", "parent_id", "state", "id"),
        Index("ix_jobs_owner_kind", "owner_id", "parent_id", "kind", "id"),
        Index("ix_jobs_kind_state", "kind", "state", "ended_at"),
        Index("ix_jobs_expiry", "expires_at"),
    )

    # Sorts by the time of its making.
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    kind: Mapped[str] = mapped_column(String(100))
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    item: Mapped[int | None]  # a child's place in its batch
    label: Mapped[str] = mapped_column(Text, default="")  # what a person calls it: a file's name
    queue: Mapped[str] = mapped_column(String(40))
    priority: Mapped[int]
    state: Mapped[str] = mapped_column(String(12), default=JobState.QUEUED)
    params: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any] | None]
    checkpoint: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(60))

    created_at: Mapped[datetime]
    run_at: Mapped[datetime]
    turn_at: Mapped[datetime]  # its place among jobs of the same priority (see `turns`)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]

    attempt: Mapped[int] = mapped_column(default=0)  # claims so far
    uncharged: Mapped[int] = mapped_column(default=0)  # of these, handed back before their end
    max_attempts: Mapped[int]
    token: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    worker: Mapped[str | None] = mapped_column(String(120))

    cancel_requested_at: Mapped[datetime | None]
    cancel_requested_by: Mapped[int | None]
    cancel_force: Mapped[bool] = mapped_column(default=False)

    percent: Mapped[float] = mapped_column(default=0.0)
    stage: Mapped[str] = mapped_column(String(60), default="")
    message: Mapped[str] = mapped_column(Text, default="")
    items_done: Mapped[int | None]
    items_total: Mapped[int | None]
    rolled_up_at: Mapped[datetime | None]
    roll_up_due: Mapped[bool] = mapped_column(default=False)  # a child's news is not shown yet
    version: Mapped[int] = mapped_column(default=1)
    request_id: Mapped[str] = mapped_column(String(64), default="")

    artifacts: Mapped[list["Artifact"]] = relationship(
        order_by="Artifact.id", passive_deletes=True, lazy="select"
    )

    @property
    def task_id(self) -> str:
        """The id as earlier clients know it; the same id."""
        return str(self.id)

    @property
    def ended(self) -> bool:
        """Whether the job has reached a terminal state."""
        return self.state in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


class JobInput(Base):
    """A stored file that a job reads; the clean-up spares it for as long as the job is active."""

    __tablename__ = "job_inputs"

    job_id: Mapped[UUID] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    file_id: Mapped[int] = mapped_column(
        ForeignKey("stored_files.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class Attempt(Base):
    """One claimed run of a job."""

    __tablename__ = "job_attempts"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        Index("ix_job_attempts_ended", "ended_at"),
    )

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    token: Mapped[UUID] = mapped_column(unique=True)
    worker: Mapped[str] = mapped_column(String(120))
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(20))
    error: Mapped[str | None] = mapped_column(Text)


class JobEvent(Base):
    """A change of a job's state.

    The events of one job commit in the order of their ids, because each is written under the
    job's row lock. Those of several jobs do not, on PostgreSQL: a reader that went by ids alone
    would pass over one whose transaction takes longer. So a stream of many jobs goes by the
    writing transactions' numbers, up to the oldest that has not ended.
    """

    __tablename__ = "job_events"
    __table_args__ = (
        Index("ix_job_events_job", "job_id", "id"),
        Index("ix_job_events_owner", "owner_id", "txid", "id"),
        # An id is never given out twice: a stream that goes on after it would miss the second.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    txid: Mapped[int] = mapped_column(BigInteger, default=transaction_id())
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    owner_id: Mapped[int | None]  # None for a batch's child: to the owner, the batch speaks for it
    at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(12))
    attempt: Mapped[int]
    note: Mapped[str | None] = mapped_column(Text)


class LogLine(Base):
    """A line that a job logged about itself."""

    __tablename__ = "job_log_lines"
    __table_args__ = (Index("ix_job_log_lines_job", "job_id", "id"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(10))
    message: Mapped[str] = mapped_column(Text)


class Artifact(Base):
    """A file that a job leaves for its owner to download. Without a file, it has expired."""

    __tablename__ = "job_artifacts"
    __table_args__ = (Index("ix_job_artifacts_job", "job_id"),)

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    file_id: Mapped[int | None] = mapped_column(
        ForeignKey("stored_files.id", ondelete="SET NULL"), index=True
    )
    name: Mapped[str] = mapped_column(Text)
    media_type: Mapped[str] = mapped_column(String(100))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]

    file: Mapped[StoredFile | None] = relationship(lazy="joined", passive_deletes=True)


class ScheduleSlot(Base):
    """A time at which a schedule was due; its row is inserted with its job, so once."""

    __tablename__ = "schedule_slots"

    schedule: Mapped[str] = mapped_column(String(100), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(primary_key=True)
    job_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("jobs.id", ondelete="SET NULL"), index=True
    )
    created_at: Mapped[datetime]


class Worker(Base):
    """A worker process group as it last reported."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    queues: Mapped[list[Any]]
    slots: Mapped[int]
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(index=True)


class PauseScope(StrEnum):
    """What can be paused."""

    QUEUE = "queue"
    KIND = "kind"
    WORKER = "worker"


class Pause(Base):
    """A queue, a kind or a worker of which nothing is claimed until the pause is lifted."""

    __tablename__ = "pauses"

    scope: Mapped[str] = mapped_column(String(10), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), primary_key=True)
    paused_at: Mapped[datetime]
    paused_by: Mapped[str] = mapped_column(String(254), default="")
    reason: Mapped[str] = mapped_column(Text, default="")


class Act(Base):
    """What was done to a queue, a kind, a worker or many jobs: who, when, what, how many.

    An act on many jobs goes in slices, and whoever goes on with it finds here how far it is: all
    jobs up to `position` are done. Whoever works on it holds `token`, until `lease_expires_at`.
    """

    __tablename__ = "acts"
    __table_args__ = (
        Index(
            "ix_acts_unfinished", "id", postgresql_where=IS_UNFINISHED, sqlite_where=IS_UNFINISHED
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    action: Mapped[str] = mapped_column(String(20))
    target: Mapped[str] = mapped_column(String(120), default="")  # a queue, a kind or a worker
    filter: Mapped[dict[str, Any] | None]  # which jobs (see `queries.Filter`)
    options: Mapped[dict[str, Any] | None]
    via: Mapped[str] = mapped_column(String(10))
    by: Mapped[str] = mapped_column(String(254))
    user_id: Mapped[int | None]  # no foreign key: the act is kept when the account is gone

    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    matched: Mapped[int] = mapped_column(default=0)
    done: Mapped[int] = mapped_column(default=0)

    bound: Mapped[UUID | None]  # the newest job when it began; what is younger is not touched
    position: Mapped[UUID | None]
    batch_id: Mapped[UUID | None]  # the batch that it is in the middle of
    token: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]


class LedgerIdentity(Base):
    """What this ledger is known by: one row, with a random name."""

    __tablename__ = "ledger_identity"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(32))
