"""A real application on a real SQLite file, and the same on a real PostgreSQL server."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from backend.accounts.models import User
from backend.app import create_app
from backend.config import Settings
from backend.db import Base, db, transaction
from backend.jobs import Queue, claims, submit
from backend.jobs.claims import Claim, Level, Slot
from backend.jobs.kinds import JobKind, Kinds
from backend.jobs.models import Job
from tests import invariants
from tests.postgresql import Server
from tests.unit.jobs import probes
from tests.unit.jobs.attempting import run_next

MakeApp = Callable[..., Flask]
T = TypeVar("T")
OWNER, STRANGER = 1, 2
Do = Callable[..., Job]


@dataclass
class Bell:
    """A doorbell that remembers who was rung for."""

    rung: list[tuple[str, UUID]] = field(default_factory=list)

    def ring(self, queue: str, job_ids: Sequence[UUID]) -> None:
        self.rung += [(queue, job_id) for job_id in job_ids]


@dataclass
class News:
    """An announcer that remembers what it told."""

    told: list[dict[str, Any]] = field(default_factory=list)

    def announce(self, news: Sequence[dict[str, Any]]) -> None:
        self.told += news


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite in the data folder, unless the test asks for both databases (see `on_both`)."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return ""
    server: Server = request.getfixturevalue("postgresql")
    return server.fresh_database()


on_both = pytest.mark.parametrize(
    "database_url",
    ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("initdb", "pg_ctl"))],
    indirect=True,
)


@pytest.fixture
def make_app(tmp_path: Path, database_url: str) -> Iterator[MakeApp]:
    """Make the application with the probe kinds and some settings of its own."""
    made: list[Flask] = []

    def make(*more: JobKind[..., Any], **own: Any) -> Flask:
        values = {
            "data_dir": tmp_path / "data",
            "secret_key": "a key for tests, of forty characters or so",
            "celery_broker_url": "memory://",
            "redis_url": "",
            "redis_host": "",
            "database_url": database_url,
        }
        (tmp_path / "data").mkdir(exist_ok=True)
        app = create_app(Settings(_env_file=None, **{**values, **own}))
        app.extensions["sluice.kinds"] = Kinds((*probes.KINDS, *more))
        app.extensions["sluice.doorbell"] = Bell()
        app.extensions["sluice.announcer"] = News()
        app.extensions["sluice.broker_depths"] = dict
        with app.app_context():
            Base.metadata.create_all(db.engine)
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def own_settings() -> dict[str, Any]:
    """Settings that a module's tests want otherwise than they are."""
    return {}


@pytest.fixture
def app(make_app: MakeApp, own_settings: dict[str, Any]) -> Iterator[Flask]:
    """The application, entered, with two owners; in the end its ledger must be sound."""
    app = make_app(**own_settings)
    with app.app_context():
        with transaction() as session:
            for id_, name in ((OWNER, "ann"), (STRANGER, "bob")):
                session.add(User(id=id_, email=f"{name}@example.org", password_hash="-"))
        yield app
        db.session.rollback()
        assert invariants.broken(db.session()) == []


@pytest.fixture
def submit_body(app: Flask) -> Do:
    """Submit a job that runs a test's own function."""

    def submit(run: probes.Body, **options: Any) -> Job:
        kind = probes.kind_of(run, **options)
        app.extensions["sluice.kinds"] = Kinds((*probes.KINDS, kind))
        return submitted(kind)

    return submit


@pytest.fixture
def do(submit_body: Do) -> Do:
    """Submit a job that runs a test's own function, and run its first attempt."""

    def run_once(run: probes.Body, **options: Any) -> Job:
        job = submit_body(run, **options)
        assert run_next() == 1
        return now(job)

    return run_once


@pytest.fixture
def bell(app: Flask) -> Bell:
    found: Bell = app.extensions["sluice.doorbell"]
    return found


@pytest.fixture
def news(app: Flask) -> News:
    found: News = app.extensions["sluice.announcer"]
    return found


def submitted(kind: JobKind[..., Any] = probes.echo, **params: Any) -> Job:
    """A job that Ann has submitted."""
    with transaction() as session:
        return submit(session, kind, OWNER, **params)


def slot_of(*queues: str, name: str = "w@test/1", lease_seconds: float = 60) -> Slot:
    """A slot that serves these queues."""
    return Slot(name, queues, lease_seconds)


def claim_one(session: Session, slot: Slot, *, aged: Level | None = None) -> Claim | None:
    """The slot's next job, if there is one."""
    taken = claims.claim(session, slot, aged=aged)
    return taken[0] if taken else None


def claimed(queue: str = Queue.DEFAULT, lease_seconds: float = 60, name: str = "w@test/1") -> Claim:
    """The queue's next job, claimed."""
    with transaction() as session:
        held = claim_one(session, slot_of(queue, name=name, lease_seconds=lease_seconds))
    assert held is not None, f"nothing was ready in {queue}"
    return held


def running(kind: JobKind[..., Any] = probes.echo, **params: Any) -> tuple[Job, Claim]:
    """A job that is under way."""
    job = submitted(kind, **params)
    return job, claimed(kind.queue)


def now(job: Job | UUID) -> Job:
    """The job as the ledger has it at this moment."""
    db.session.commit()
    return db.session.get_one(Job, job if isinstance(job, UUID) else job.id, populate_existing=True)


def in_transaction(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a service in a transaction of its own."""
    with transaction() as session:
        return call(session, *args, **kwargs)


def at_once(app: Flask, *calls: Callable[[Session], Any]) -> list[Any]:
    """Run each call in a thread and a transaction of its own, all let go at the same moment.

    An exception is returned in the place of a result.
    """
    return beside(app, *[partial(in_transaction, call) for call in calls])


def beside(app: Flask, *calls: Callable[[], Any]) -> list[Any]:
    """As `at_once`, for calls that open their own transactions."""
    gate = threading.Barrier(len(calls))

    def enter(call: Callable[[], Any]) -> Any:
        with app.app_context():
            gate.wait(30)
            try:
                return call()
            except Exception as error:  # noqa: BLE001 - the test looks at it
                return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(enter, calls))


def race(
    app: Flask,
    things: Sequence[T],
    one: Callable[[Session, T], Any],
    other: Callable[[Session, T], Any],
) -> list[tuple[Any, Any]]:
    """For each thing, let two threads act on it at the same moment; return what each said."""
    gate = threading.Barrier(2)

    def go_through(act: Callable[[Session, T], Any]) -> list[Any]:
        said = []
        with app.app_context():
            for thing in things:
                gate.wait(30)
                with transaction() as session:
                    said.append(act(session, thing))
                db.session.remove()
        return said

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(go_through, one), pool.submit(go_through, other)
        return list(zip(first.result(), second.result(), strict=True))
