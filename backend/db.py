"""The database: models' base, types, the database's own clock, and the one way to write.

PostgreSQL and SQLite behave alike here: times are aware UTC, foreign keys are enforced, and a
write transaction takes its lock at the start (SQLite's BEGIN IMMEDIATE), because a transaction
that begins by reading and then writes fails at once under load instead of waiting its turn.
"""

import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, cast
from uuid import UUID

import psycopg
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    DateTime,
    Dialect,
    Engine,
    MetaData,
    Table,
    Uuid,
    event,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from backend.errors import Unavailable

BUSY_TIMEOUT_MS = 15_000
WRITE_GLANCE_SECONDS = 0.002
# The database cannot be reached, is too busy, or has ended the connection.
AWAY = (OperationalError, InterfaceError, InternalError, PoolTimeout)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time, also on SQLite, which keeps no zone. A naive time is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; times here are aware, in UTC")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock, at the moment of the statement, plus a number of seconds."""

    type = UtcDateTime()
    inherit_cache = True
    name = "db_now"

    def __init__(self, plus_seconds: object = 0.0) -> None:
        super().__init__(plus_seconds)


@compiles(db_now, "postgresql")
def _postgresql_now(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"(clock_timestamp() + make_interval(secs => CAST({seconds} AS double precision)))"


@compiles(db_now, "sqlite")
def _sqlite_now(element: Any, compiler: SQLCompiler, **kw: Any) -> str:
    # Six digits of fraction, as SQLAlchemy stores them, so that text compares as time does.
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')"


class random_uuid(FunctionElement[UUID]):  # noqa: N801 - reads as the SQL function it is
    """A UUID that the database draws, for each row another."""

    type = Uuid()
    inherit_cache = True
    name = "random_uuid"


@compiles(random_uuid, "postgresql")
def _postgresql_uuid(*_: Any, **__: Any) -> str:
    return "gen_random_uuid()"


@compiles(random_uuid, "sqlite")
def _sqlite_uuid(*_: Any, **__: Any) -> str:
    return "lower(hex(randomblob(16)))"


class transaction_id(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """The number of the transaction that writes; 0 on SQLite, which has one writer at a time."""

    type = BigInteger()
    inherit_cache = True
    name = "transaction_id"


class oldest_transaction_id(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """The number below which every transaction has ended, and so can be seen; 1 on SQLite."""

    type = BigInteger()
    inherit_cache = True
    name = "oldest_transaction_id"


@compiles(transaction_id, "postgresql")
def _postgresql_transaction_id(*_: Any, **__: Any) -> str:
    return "CAST(CAST(pg_current_xact_id() AS text) AS bigint)"


@compiles(transaction_id, "sqlite")
def _sqlite_transaction_id(*_: Any, **__: Any) -> str:
    return "0"


@compiles(oldest_transaction_id, "postgresql")
def _postgresql_oldest_transaction_id(*_: Any, **__: Any) -> str:
    return "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"


@compiles(oldest_transaction_id, "sqlite")
def _sqlite_oldest_transaction_id(*_: Any, **__: Any) -> str:
    return "1"


class Base(DeclarativeBase):
    """The base of every model."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(none_as_null=True),
        list[Any]: JSON(none_as_null=True),
    }


def table_of(model: type[Base]) -> Table:
    """A model's table, for statements that are made once and run often."""
    return cast(Table, model.__table__)


db = SQLAlchemy(metadata=Base.metadata, session_options={"expire_on_commit": False})
migrate = Migrate(compare_type=True, render_as_batch=True)


@contextmanager
def transaction() -> Iterator[Session]:
    """Run the block as one write transaction of the current context's session.

    Commits at the end, rolls back on any exception, and then runs what `after_commit` was given.
    A block inside another joins it. What was read before is released first, so that the block
    sees the newest state and waits for its turn to write instead of failing.
    """
    session = db.session()
    if session.info.get("writing"):
        yield session
        return
    session.commit()
    session.info["writing"] = True
    try:
        with _turn(session):
            session.connection(execution_options={"writes": True})
            yield session
            session.commit()
    except BaseException:
        session.rollback()
        session.info.clear()
        raise
    finally:
        session.info.pop("writing", None)
    for callback in session.info.pop("after_commit", []):
        callback()


# SQLite has one writer at a time, and those who wait for it poll. The threads of a process take
# turns here instead, woken at once, so that two hundred requests do not sleep past each other.
_writer = threading.Lock()


@contextmanager
def _turn(session: Session) -> Iterator[None]:
    if session.get_bind().dialect.name != "sqlite":
        yield
        return
    if not _writer.acquire(timeout=2 * BUSY_TIMEOUT_MS / 1000):
        raise Unavailable("The database is busy just now. Try again in a moment.")
    try:
        yield
    finally:
        try:
            # Nothing is left after a commit; after an error, the lock goes first.
            session.rollback()
        finally:
            _writer.release()


def after_commit(session: Session, callback: Callable[[], None]) -> None:
    """Run the callback once the session's `transaction()` has committed; never if it rolls back."""
    session.info.setdefault("after_commit", []).append(callback)


def survive_crashes_alone(engine: Engine) -> None:
    """Commit on SQLite from now on without waiting for the disk, in this process.

    What is committed survives whatever happens to processes. After a loss of power the last
    commits may be missing, of this process and nobody else: attempts then run again.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _relax)


def _relax(connection: DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def engine_options(url: URL) -> dict[str, Any]:
    """SQLAlchemy's engine options for a database URL.

    On PostgreSQL a statement, a lock and a dead connection each give up in bounded time: a
    request thread or a heartbeat must never hang on a machine that has gone.
    """
    if url.get_backend_name() != "postgresql":
        return {"connect_args": {"timeout": BUSY_TIMEOUT_MS / 1000}}
    return {
        "pool_size": 10,
        "max_overflow": 60,
        "pool_timeout": 10,
        "connect_args": {
            "connect_timeout": 5,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
            "options": "-c statement_timeout=60000 -c lock_timeout=15000"
            " -c idle_in_transaction_session_timeout=300000 -c timezone=UTC"
            # The server too looks whether its caller is still there, or a machine that vanished in
            # the middle of a write would hold its rows for those five minutes.
            " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
            " -c tcp_user_timeout=15000",
        },
    }


@event.listens_for(Engine, "checkout")
def _notice_the_end(
    connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object
) -> None:
    """Make a connection anew that the server has ended.

    It says so before it hangs up, or just hangs up: either can be seen without asking it, which
    is a way to the server for every transaction. A fresh one that has ended is an error of the
    statement, as of a server that cannot be reached.
    """
    if isinstance(connection, sqlite3.Connection) or record.info.pop("fresh", False):
        return
    there = select.poll()
    try:
        there.register(connection.fileno(), select.POLLIN)
    except psycopg.OperationalError:
        raise DisconnectionError("The connection was closed on this side.") from None
    if there.poll(0):
        raise DisconnectionError("The server has ended the connection.")


@event.listens_for(Engine, "connect")
def _mark_as_fresh(_connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    record.info["fresh"] = True


@event.listens_for(Engine, "connect")
def _prepare_sqlite(connection: DBAPIConnection, _record: object) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    # None: this module begins transactions itself, below, and the driver stays out of it.
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        # A 202 is a promise: the row is on disk when the answer leaves.
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
    ):
        connection.execute(f"PRAGMA {pragma}")


@event.listens_for(Engine, "begin")
def _begin_sqlite(connection: Any) -> None:
    if connection.dialect.name != "sqlite":
        return
    if not connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("BEGIN")
        return
    raw = connection.connection.driver_connection
    raw.execute("PRAGMA busy_timeout=0")
    try:
        if not _begin_soon(raw):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # it says what is wrong
    finally:
        raw.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def _begin_soon(raw: sqlite3.Connection) -> bool:
    """Begin to write as soon as the other processes let us; False after the busy timeout.

    SQLite's own wait sleeps for up to a tenth of a second between two looks, while a transaction
    of ours takes a few milliseconds. One thread a process looks, so it may look often.
    """
    until = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while time.monotonic() < until:
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                return False
            time.sleep(WRITE_GLANCE_SECONDS)
        else:
            return True
    return False
