"""Reading the ledger: lists that hold still, reasons, forecasts, and plans that use an index."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import Select, insert, literal, select, tuple_, update
from sqlalchemy.dialects import sqlite

from backend.clock import utc_now
from backend.db import db, db_now, transaction
from backend.errors import NotFound
from backend.jobs import Queue, attempts, batches, claims, queries, submit, submit_batch, workers
from backend.jobs.models import IS_LEASED, IS_PARKED, Attempt, Job, JobEvent, Pause, PauseScope
from backend.jobs.queries import Filter, Place
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import (
    OWNER,
    STRANGER,
    beside,
    claimed,
    in_transaction,
    now,
    on_both,
    running,
    submitted,
)


def pages(wanted: Filter, limit: int) -> Iterator[list[UUID]]:
    cursor: str | None = None
    while True:
        page = queries.jobs_page(db.session(), OWNER, wanted, cursor, limit)
        yield [job.id for job in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return


def listed(**wanted: object) -> list[UUID]:
    return [one for page in pages(Filter(**wanted), 100) for one in page]  # type: ignore[arg-type]


# ---------------------------------------------------------------- lists


@on_both
def test_pages_hold_still_while_new_jobs_come_in(app: Flask) -> None:
    jobs = [submitted().id for _ in range(7)]
    seen = []
    for page in pages(Filter(), 3):
        seen += page
        submitted()

    assert seen == jobs[::-1]


@on_both
def test_each_filter_finds_what_it_names(app: Flask) -> None:
    first, urgent = submitted(), submitted(probes.urgent)
    half = utc_now()
    in_transaction(attempts.finish, claimed(), {})
    with transaction() as session:
        parent = submit_batch(
            session, probes.close, OWNER, probes.echo, [("50%.pdf", {})], label="50% off_.pdf"
        )
        session.execute(update(Job).where(Job.id == first.id).values(label="50 off x.pdf"))

    assert listed() == [parent.id, urgent.id, first.id]
    assert listed(state=["succeeded"]) == [first.id]
    assert listed(state=["waiting", "queued"]) == [parent.id, urgent.id]
    assert listed(kind="probe.urgent") == [urgent.id]
    assert listed(queue=Queue.HIGH) == [urgent.id]
    assert listed(q="50% OFF_") == [parent.id]
    assert listed(q="50") == [parent.id, first.id]
    assert listed(since=half) == [parent.id]
    assert len(listed(parent_id=parent.id)) == 1


def test_times_before_the_epoch_and_far_off_are_times_too(app: Flask) -> None:
    job = submitted()
    assert listed(since=datetime(1900, 1, 1, tzinfo=UTC)) == [job.id]
    assert listed(since=datetime(9999, 1, 1, tzinfo=UTC)) == []


def test_anothers_job_is_not_there(app: Flask) -> None:
    job = submitted()
    with pytest.raises(NotFound):
        queries.owned(db.session(), STRANGER, job.id)
    assert queries.jobs_page(db.session(), STRANGER, Filter(), None, 10).items == []


@on_both
def test_children_are_listed_in_the_order_of_their_items(app: Flask) -> None:
    with transaction() as session:
        items = [(f"item {number}", {}) for number in range(5)]
        parent = submit_batch(session, probes.close, OWNER, probes.once, items)
    first = queries.children_page(db.session(), parent, None, 3)
    second = queries.children_page(db.session(), parent, first.next_cursor, 3)

    assert [child.item for child in (*first.items, *second.items)] == [0, 1, 2, 3, 4]
    assert second.next_cursor is None


@on_both
def test_events_go_on_after_the_cursor(app: Flask) -> None:
    job, held = running()
    everyones, its_own = (queries.last_place(db.session(), OWNER, each) for each in (None, job.id))
    other = submitted()
    in_transaction(attempts.finish, held, {})

    after = queries.events_of_owner(db.session(), OWNER, everyones)
    assert [(each.event.job_id, each.state) for each in after] == [
        (other.id, "queued"),
        (job.id, "succeeded"),
    ]
    assert queries.last_place(db.session(), OWNER) == after[-1].place
    mine = queries.events_of_job(db.session(), job.id, its_own)
    assert [each.state for each in mine] == ["succeeded"]
    assert queries.events_of_owner(db.session(), STRANGER, Place(0, 0)) == []


@on_both
def test_a_batch_speaks_for_its_children(app: Flask) -> None:
    with transaction() as session:
        parent = submit_batch(session, probes.close, OWNER, probes.once, [("an item", {})])
    in_transaction(attempts.finish, claimed(), {"ran": 1})
    in_transaction(batches.release, parent.id)

    told = queries.events_of_owner(db.session(), OWNER, Place(0, 0))
    assert [(each.event.job_id, each.event.state, each.state) for each in told] == [
        (parent.id, "waiting", "waiting"),
        (
            parent.id,
            "queued",
            "running",
        ),  # for its closing step: it never looks as if it had not begun
    ]


@pytest.mark.needs("initdb", "pg_ctl")
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_event_whose_transaction_ends_late_is_not_passed_over(app: Flask) -> None:
    """Its id is the smaller one, and it can be seen only after the other's."""
    written, looked = threading.Event(), threading.Event()

    def late() -> UUID:
        with transaction() as session:
            job = submit(session, probes.echo, OWNER)
            written.set()
            assert looked.wait(30)
        return job.id

    def early() -> tuple[UUID, Place]:
        assert written.wait(30)
        job = submitted()
        seen = queries.events_of_owner(db.session(), OWNER, Place(0, 0))
        looked.set()
        return job.id, seen[-1].place if seen else Place(0, 0)

    late_id, (early_id, place) = beside(app, late, early)
    after = queries.events_of_owner(db.session(), OWNER, place)

    assert [each.event.job_id for each in after] == [late_id, early_id]


# ---------------------------------------------------------------- why it waits


def why(job: Job) -> str:
    waiting = queries.why_waiting(db.session(), now(job))
    return waiting.reason if waiting else "it does not"


@on_both
def test_a_waiting_job_says_why(app: Flask) -> None:
    job = submitted()
    assert why(job) == "no_worker"
    workers.report("default@one", ["default"], 2)
    assert why(job) == "queued"
    with transaction() as session:
        session.add(
            Pause(
                scope=PauseScope.QUEUE,
                name=Queue.DEFAULT,
                paused_at=db_now(),
                reason="moving house",
            )
        )
    assert why(job) == "paused"
    assert "moving house" in queries.why_waiting(db.session(), now(job)).message  # type: ignore[union-attr]
    with transaction() as session:
        session.delete(session.get_one(Pause, (PauseScope.QUEUE, Queue.DEFAULT)))
        session.execute(update(Job).values(run_at=db_now(3600)))
    assert why(job) == "scheduled"
    with transaction() as session:
        session.execute(update(Job).values(run_at=db_now(-1)))
    held = claimed()
    assert why(job) == "it does not"
    in_transaction(attempts.try_later, held, "away", code="unavailable", wait_seconds=3600)
    assert why(job) == "retry_due"


def test_a_job_in_the_queue_knows_its_place(app: Flask) -> None:
    workers.report("default@one", ["default"], 2)
    jobs = [submitted() for _ in range(3)]
    with transaction() as session:
        session.execute(update(Job).where(Job.id == jobs[2].id).values(priority=9))

    places = [queries.why_waiting(db.session(), now(job)) for job in jobs]
    assert [place.position for place in places if place] == [2, 3, 1]


def test_a_batch_waits_for_its_items(app: Flask) -> None:
    with transaction() as session:
        parent = submit_batch(session, probes.close, OWNER, probes.once, [("a", {}), ("b", {})])

    waiting = queries.why_waiting(db.session(), now(parent))
    assert waiting is not None
    assert (waiting.reason, waiting.message) == ("children", "Waiting for 2 items.")


# ---------------------------------------------------------------- when it is done


@on_both
def test_a_running_job_is_foretold_from_the_runs_of_its_kind(app: Flask) -> None:
    job, _ = running()
    assert queries.eta(db.session(), now(job)) is None
    with transaction() as session:
        clock = session.scalars(select(db_now())).one()
        for seconds in range(10, 20):
            started = clock - timedelta(hours=1)
            session.add(finished("probe.echo", started, started + timedelta(seconds=seconds)))

    eta = queries.eta(db.session(), now(job))
    assert eta is not None
    assert (eta.low, eta.high) == (pytest.approx(11, abs=1), pytest.approx(18, abs=1))


def finished(kind: str, started: datetime, ended: datetime) -> Job:
    return Job(
        kind=kind,
        queue=Queue.DEFAULT,
        priority=5,
        state="succeeded",
        params={},
        created_at=started,
        run_at=started,
        turn_at=started,
        started_at=started,
        ended_at=ended,
        max_attempts=3,
        percent=100,
    )


# ---------------------------------------------------------------- plans

ROWS = 20_000


@pytest.fixture
def full(app: Flask) -> Flask:
    """A ledger of twenty thousand jobs in all states, of many owners and kinds."""
    states = ["succeeded"] * 14 + [
        "failed",
        "cancelled",
        "queued",
        "running",
        "waiting",
        "retrying",
    ]
    clock = utc_now()
    rows = [
        {
            "id": UUID(int=(0x019A << 112) + number),
            "kind": f"probe.kind{chr(97 + number % 7)}",
            "owner_id": 1 + number % 2,
            "label": f"file {number}.pdf",
            "queue": list(Queue)[number % 3],
            "priority": 5,
            "state": states[number % 20],
            "params": {},
            "created_at": clock,
            "run_at": clock,
            "turn_at": clock,
            "ended_at": clock if number % 20 < 16 else None,
            "lease_expires_at": clock if states[number % 20] == "running" else None,
            "max_attempts": 3,
        }
        for number in range(ROWS)
    ]
    with transaction() as session:
        session.execute(insert(Job), rows)
        session.execute(
            insert(JobEvent),
            [
                {
                    "job_id": row["id"],
                    "owner_id": row["owner_id"],
                    "at": clock,
                    "state": "x",
                    "attempt": 0,
                }
                for row in rows[::10]
            ],
        )
    with db.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
    yield app
    with transaction() as session:
        session.query(Job).delete()


def plan_of(query: Select[tuple[object]]) -> str:
    compiled = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    rows = db.session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}")
    return " / ".join(row[3] for row in rows)


FILTERS = {
    "none": Filter(),
    "state": Filter(state=["failed"]),
    "states": Filter(state=["queued", "retrying"]),
    "kind": Filter(kind="probe.kinda"),
    "queue": Filter(queue=Queue.HIGH),
    "since": Filter(since=datetime(2025, 11, 1, tzinfo=UTC)),
    "kind and state": Filter(kind="probe.kinda", state=["failed"]),
    "q": Filter(q="file 77"),
    "children": Filter(parent_id=UUID(int=1)),
}


def test_every_list_is_found_by_an_index_of_its_owner_or_parent(full: Flask) -> None:
    for name, wanted in FILTERS.items():
        page = wanted.apply(select(Job), OWNER).order_by(Job.id.desc()).limit(51)
        plan = plan_of(page)
        assert "SEARCH jobs USING INDEX" in plan, f"{name}: {plan}"
        assert "SCAN" not in plan, f"{name}: {plan}"


DUTIES = {
    "claim": (claims.next_ready(literal(Queue.DEFAULT)), "ix_jobs_ready"),
    "rescue": (select(Job).where(IS_LEASED, Job.lease_expires_at < db_now()), "ix_jobs_leases"),
    "release": (select(Job.id).where(IS_PARKED), "ix_jobs_parked"),
    "events of an owner": (
        select(JobEvent)
        .where(JobEvent.owner_id == 1, tuple_(JobEvent.txid, JobEvent.id) > tuple_(0, 5))
        .order_by(JobEvent.txid, JobEvent.id),
        "ix_job_events_owner",
    ),
    "events of a job": (
        select(JobEvent).where(JobEvent.job_id == UUID(int=1)).order_by(JobEvent.id),
        "ix_job_events_job",
    ),
    "runs of a kind": (
        select(Job.started_at)
        .where(Job.kind == "probe.kinda", Job.state == "succeeded")
        .order_by(Job.ended_at.desc()),
        "ix_jobs_kind_state",
    ),
    "an attempt by its token": (
        select(Attempt.outcome).where(Attempt.token == UUID(int=1)),
        "INDEX sqlite_autoindex",
    ),
}


def test_claim_and_housekeeping_use_the_indexes_made_for_them(full: Flask) -> None:
    for name, (query, index) in DUTIES.items():
        plan = plan_of(query)
        assert index in plan, f"{name}: {plan}"
        assert "TEMP B-TREE" not in plan, f"{name}: {plan}"


def test_a_page_deep_in_the_list_costs_what_the_first_one_does(full: Flask) -> None:
    """The cursor is a place in the index, not a number of rows to skip."""
    page = Filter().apply(select(Job), OWNER).where(Job.id < UUID(int=(0x019A << 112) + 100))
    plan = plan_of(page.order_by(Job.id.desc()).limit(51))

    assert "ix_jobs_owner (owner_id=? AND parent_id=? AND id<?)" in plan


def test_a_filter_that_matches_little_is_gone_through_page_by_page(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "WINDOW", 3)
    monkeypatch.setattr(queries, "LOOK_SECONDS", 0.0)
    jobs = [submitted() for _ in range(20)]
    with transaction() as session:
        for number in (2, 11, 12):
            session.execute(
                update(Job).where(Job.id == jobs[number].id).values(label=f"wanted {number}")
            )
    cursor, seen, pages = None, [], 0
    while True:
        page = queries.jobs_page(db.session(), OWNER, Filter(q="wanted"), cursor, 2)
        seen += [job.label for job in page.items]
        cursor, pages = page.next_cursor, pages + 1
        if cursor is None:
            break

    assert seen == ["wanted 12", "wanted 11", "wanted 2"]
    assert 5 < pages < 10
