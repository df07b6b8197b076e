"""Sluice's ledger, filled and looked at from outside: by SQL, so that a million rows take seconds.

python -m tests.bench.queues.ledger multiply KIND:COUNT:OWNER …
python -m tests.bench.queues.ledger claim COUNT
python -m tests.bench.queues.ledger waits OWNER …
python -m tests.bench.queues.ledger events
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Uuid, delete, select, text

from backend.db import db, transaction
from backend.jobs import claims, submit
from backend.jobs.models import Job, JobEvent
from tests.bench.queues.kinds import BENCH, web

KINDS = {kind.name: kind for kind in BENCH}
HOUR_MS = 3_600_000


def multiply(*groups: str) -> dict[str, Any]:
    """Queue jobs, for each `KIND:COUNT:OWNER` so many, alike but for their id, time and label.

    The first is submitted as any is, and the others are made of its row in one statement, so
    whatever columns the ledger has are filled. Ids are UUIDv7s that spread over the last hour.
    Each job has its event. None has a ring: the steward rings for what the workers take.
    """
    started, first = time.monotonic(), 0
    with web.app_context():
        for kind, count, owner in (group.split(":") for group in groups):
            with transaction() as session:
                model = submit(session, KINDS[kind], int(owner)).id
                session.info["after_commit"] = []
            with db.engine.begin() as connection:
                _multiply_jobs(connection, model, first, int(count))
                _multiply_events(connection, model)
                for table, column in ((JobEvent, JobEvent.job_id), (Job, Job.id)):
                    connection.execute(delete(table).where(column == model))
            first += int(count)
        with db.engine.connect() as connection:
            connection.execute(text("ANALYZE"))  # as autovacuum would
            connection.commit()
    return {"seconds": time.monotonic() - started}


def _multiply_jobs(connection: Connection, model: Any, first: int, count: int) -> None:
    step = max(1, HOUR_MS // count)
    start = int(time.time() * 1000) - step * count
    number, begin, series = f"({first} + n.i)", f"({start} + n.i * {step})", _series(connection)
    label = f"'invoice ' || {number} || '.pdf'"
    if connection.dialect.name == "sqlite":
        made = f"printf('%012x7%03x8%015x', {begin}, {number} % 4096, {number})"
    else:
        made = (
            f"(lpad(to_hex({begin}), 12, '0') || '7' || lpad(to_hex({number} % 4096), 3, '0')"
            f" || '8' || lpad(to_hex({number}), 15, '0'))::uuid"
        )
    columns = {column.name: f"t.{column.name}" for column in Job.__table__.columns}
    columns |= {"id": made, "label": label}
    connection.execute(
        text(
            f"{series[0]} INSERT INTO jobs ({', '.join(columns)})"  # noqa: S608 - our own names
            f" SELECT {', '.join(columns.values())} FROM jobs t, {series[1]} WHERE t.id = :model"
        ).bindparams(model=_bound(connection, model)),
        {"last": count},
    )


def _series(connection: Connection) -> tuple[str, str]:
    """How 1 … :last reads: what stands before the statement, and the table `n` with `i`."""
    if connection.dialect.name == "sqlite":
        each = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
        return each, "n"
    return "", "generate_series(CAST(1 AS bigint), :last) AS n(i)"


def _multiply_events(connection: Connection, model: Any) -> None:
    names = [c.name for c in JobEvent.__table__.columns if c.name not in {"id", "job_id"}]
    given = ", ".join(f"e.{name}" for name in names)
    connection.execute(
        text(
            f"INSERT INTO job_events (job_id, {', '.join(names)}) SELECT j.id, {given}"  # noqa: S608
            " FROM jobs j, job_events e, jobs t WHERE e.job_id = :model AND t.id = :model"
            " AND j.kind = t.kind AND j.owner_id = t.owner_id AND j.id <> t.id"
            " AND NOT EXISTS (SELECT 1 FROM job_events x WHERE x.job_id = j.id)"
        ).bindparams(model=_bound(connection, model))
    )


def _bound(connection: Connection, model: Any) -> Any:
    process = Uuid().bind_processor(connection.dialect)
    return process(model) if process else model


def claim(count: str) -> dict[str, Any]:
    """Claim jobs of the default queue one after another; tell each claim's milliseconds."""
    took = []
    slot = claims.Slot("bench@here/1", ("high_priority", "default"), lease_seconds=600)
    with web.app_context():
        for _ in range(int(count)):
            started = time.monotonic()
            with transaction() as session:
                claims.claim(session, slot)
            took.append((time.monotonic() - started) * 1000)
    return {"ms": took}


def submit_for(kind: str, times: str, *owners: str) -> dict[str, Any]:
    """Submit a job for each owner, once a second, so many times."""
    with web.app_context():
        for _ in range(int(times)):
            for owner in owners:
                with transaction() as session:
                    submit(session, KINDS[kind], int(owner))
            time.sleep(1.0)
        web.extensions["sluice.doorbell"].flush(10)
    return {}


def waits(patience: str, *owners: str) -> dict[str, Any]:
    """For how many seconds the owners' jobs waited; None for one that waits after the patience."""
    until = time.monotonic() + float(patience)
    query = select(Job.run_at, Job.started_at).where(Job.owner_id.in_([int(o) for o in owners]))
    with web.app_context():
        while True:
            jobs = db.session.execute(query).all()
            db.session.commit()
            if all(job.started_at for job in jobs) or time.monotonic() > until:
                break
            time.sleep(0.2)
    waited = [(j.started_at - j.run_at).total_seconds() if j.started_at else None for j in jobs]
    return {"seconds": waited}


def events() -> dict[str, Any]:
    """Every job's events in their order, as `state attempt`."""
    found: dict[str, list[str]] = {}
    with web.app_context():
        for event in db.session.scalars(select(JobEvent).order_by(JobEvent.id)):
            found.setdefault(str(event.job_id), []).append(f"{event.state} {event.attempt}")
    return found


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "multiply": multiply,
    "claim": claim,
    "submit-for": submit_for,
    "waits": waits,
    "events": events,
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(COMMANDS[sys.argv[1]](*sys.argv[2:])) + "\n")
