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
from uuid import UUID

from sqlalchemy import Connection, Uuid, delete, select, text

from backend.db import db, transaction
from backend.jobs import claims, submit
from backend.jobs.models import Job, JobEvent
from tests.bench.queues.kinds import BENCH, web

KINDS = {kind.name: kind for kind in BENCH}
HOUR_MS = 3_600_000
AT_ONCE = 50_000  # rows of a statement, which has a minute


def multiply(*groups: str) -> dict[str, Any]:
    """Queue jobs, for each `KIND:COUNT:OWNER` so many, alike but for id, time, turn and label.

    The first is submitted as any is, and the others are made of its row, so whatever columns the
    ledger has are filled. Ids are UUIDv7s that spread over the last hour. Each job has its event,
    and its turn a second after its owner's last. None has a ring: the steward rings for what the
    workers take.
    """
    started, first = time.monotonic(), 0
    with web.app_context():
        for kind, count, owner in (group.split(":") for group in groups):
            with transaction() as session:
                model = submit(session, KINDS[kind], int(owner)).id
                session.info["after_commit"] = []
            made = _id(db.engine.dialect.name, first, int(count))
            for done in range(0, int(count), AT_ONCE):
                numbers = {"first": done + 1, "last": min(done + AT_ONCE, int(count))}
                with db.engine.begin() as connection:
                    _multiply(connection, Job, model, {"id": made, **_own(first)}, numbers)
                    _multiply(connection, JobEvent, model, {"job_id": made}, numbers)
            with db.engine.begin() as connection:
                connection.execute(delete(Job).where(Job.id == model))
            first += int(count)
        with db.engine.connect() as connection:
            connection.execute(text("ANALYZE"))  # as autovacuum would
            connection.commit()
    return {"seconds": time.monotonic() - started}


def _id(dialect: str, first: int, count: int) -> str:
    """The id of the job `n.i` of a group, of which so many jobs were made before."""
    step = max(1, HOUR_MS // count)
    start = int(time.time() * 1000) - step * count
    number, begin = f"({first} + n.i)", f"({start} + n.i * {step})"
    if dialect == "sqlite":
        return f"printf('%012x7%03x8%015x', {begin}, {number} % 4096, {number})"
    return (
        f"(lpad(to_hex({begin}), 12, '0') || '7' || lpad(to_hex({number} % 4096), 3, '0')"
        f" || '8' || lpad(to_hex({number}), 15, '0'))::uuid"
    )


def _own(first: int) -> dict[str, str]:
    """What a job has of its own beside its id."""
    if db.engine.dialect.name == "sqlite":
        turn = "strftime('%Y-%m-%d %H:%M:%f000', t.turn_at, n.i || ' seconds')"
    else:
        turn = "t.turn_at + n.i * interval '1 second'"
    return {"label": f"'invoice ' || ({first} + n.i) || '.pdf'", "turn_at": turn}


def _multiply(
    connection: Connection,
    table: type[Job | JobEvent],
    model: UUID,
    own: dict[str, str],
    numbers: dict[str, int],
) -> None:
    """Add rows like the model's, the numbers `n.i` from `first` to `last`."""
    names = [column.name for column in table.__table__.columns]
    if table is JobEvent:
        names.remove("id")  # the database numbers them
    given = ", ".join(own.get(name, f"t.{name}") for name in names)
    key = "id" if table is Job else "job_id"
    each, series = "", "generate_series(CAST(:first AS bigint), :last) AS n(i)"
    if connection.dialect.name == "sqlite":
        each = (
            "WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
        )
        series = "n"
    connection.execute(
        text(
            f"{each} INSERT INTO {table.__tablename__} ({', '.join(names)})"  # noqa: S608 - our own
            f" SELECT {given} FROM {table.__tablename__} t, {series} WHERE t.{key} = :model"
        ).bindparams(model=_bound(connection, model)),
        numbers,
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
