"""Compares ledger, broker, workers, storage and schedules, and says what is wrong and what to do.

One check a function: it yields a finding for each thing that is wrong, and nothing where all is
well. A check that cannot be made says so itself, and the others go on.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import current_app
from sqlalchemy import func, select

from backend.clock import utc_now
from backend.config import MIB, Settings
from backend.db import db, db_now
from backend.errors import Unavailable
from backend.jobs import marks, overview, schedules
from backend.jobs.marks import Mark
from backend.jobs.models import IS_LEASED, IS_READY, Job, Pause, PauseScope
from backend.ops.readiness import WORKER_SECONDS, redis_fault
from backend.storage import antivirus, sweeping
from backend.storage.blobs import store
from backend.storage.models import StoredFile, blob_key

LOOK_AGAIN_SECONDS = 1.5  # what is under way at one look has come to rest at the next
SLACK_SECONDS = 10.0  # beyond the steward's period, before what it should have done is missing
SCHEDULE_SLACK = timedelta(minutes=2)
CLOCK_SECONDS = 2.0  # by which clocks may differ
LONG_PAUSE = timedelta(hours=1)
ORPHAN_AGE = timedelta(hours=3)  # the clean-up removes them every hour
MOST_BLOBS = 20_000  # that are looked at: to list a large store takes minutes
SAMPLE = 200  # of the newest files, whose contents are looked for
FEWEST_FREE_BYTES = 256 * MIB
BEAT = "Start one (`celery -A celery_app beat`), or read the log of the one that runs."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, in a sentence, and what to do about it in another."""

    check: str
    problem: str
    advice: str


Found = Iterator[tuple[str, str]]  # what is wrong, and what to do


def examine() -> list[Finding]:
    """Make every check; an empty list says that nothing is wrong."""
    return [
        Finding(check=check.__name__, problem=problem, advice=advice)
        for check in CHECKS
        for problem, advice in _made(check)
    ]


def _made(check: Callable[[], Found]) -> list[tuple[str, str]]:
    try:
        return list(check())
    except Exception as error:  # noqa: BLE001 - a check that fails is its own finding
        db.session.rollback()
        # The kind of the failure, and not its words: those may hold addresses and log-ins.
        kind = type(error).__name__
        return [(f"This could not be checked ({kind}).", "See what else is wrong first.")]
    finally:
        db.session.commit()


# ---------------------------------------------------------------- the ledger and who tends it


def leases() -> Found:
    """Jobs whose lease has long expired: nobody rescues them."""
    late = _settings().reconcile_seconds + SLACK_SECONDS
    expired = select(func.count()).where(IS_LEASED, Job.lease_expires_at < db_now(-late))
    count = db.session.scalar(expired.select_from(Job))
    if count:
        yield (
            f"{count} jobs have had no heartbeat since {late:g} s after their lease ended or"
            " longer, and nobody has rescued them: no beat runs.",
            BEAT,
        )


def schedules_due() -> Found:
    """Schedules whose time has passed without a job."""
    last = schedules.last_slots()
    now = db.session.scalars(select(db_now())).one()
    for schedule in current_app.extensions["sluice.schedules"]:
        if schedule.name not in last:
            yield f"The schedule {schedule.name} was never seen by a beat.", BEAT
            continue
        passed = schedules.slots_between(schedule.cron, last[schedule.name], now - SCHEDULE_SLACK)
        due = next(passed, None)
        if due:
            yield (
                f"The schedule {schedule.name} is overdue since {due:%Y-%m-%d %H:%M} UTC:"
                " no beat runs.",
                BEAT,
            )


# ---------------------------------------------------------------- the broker


def doorbells() -> Found:
    """Ready jobs for which no message waits though slots are free, and messages without a job."""
    first = {name: found for name, *found in _against_messages()}
    if not first:
        return
    time.sleep(LOOK_AGAIN_SECONDS)
    for queue, missing, left in _against_messages():
        if missing and first.get(queue, [0, 0])[0]:
            yield (
                f"{missing} jobs of the queue {queue} are ready and its slots are free, but the"
                " broker holds no message for them: nobody rings.",
                BEAT,
            )
        if left and first.get(queue, [0, 0])[1]:
            yield (
                f"{left} messages wait in the queue {queue} for jobs that are not there any more,"
                " and no slot takes them.",
                f"They do no harm, and go once a worker serves {queue}.",
            )


def _against_messages() -> list[tuple[str, int, int]]:
    """Per queue, how many doorbells are missing, and how many are left over."""
    late = _settings().reconcile_seconds + SLACK_SECONDS
    depths = current_app.extensions["sluice.broker_depths"]()
    paused = select(Pause.name)
    overdue = (
        select(Job.queue, func.count())
        .where(
            IS_READY,
            Job.run_at < db_now(-late),
            Job.kind.not_in(paused.where(Pause.scope == PauseScope.KIND)),
            Job.queue.not_in(paused.where(Pause.scope == PauseScope.QUEUE)),
        )
        .group_by(Job.queue)
    )
    waiting: dict[str, int] = dict(db.session.execute(overdue).all())
    found = []
    for queue in overview.queues():
        messages = depths.get(queue.name, 0)
        free = queue.slots - queue.drained_slots > queue.running
        missing = waiting.get(queue.name, 0) if free and not messages else 0
        left = messages if not queue.ready and not queue.running else 0
        if missing or left:
            found.append((queue.name, missing, left))
    return found


def broker() -> Found:
    """A broker that is away, throws messages away, or has no room for more."""
    address = _settings().broker_redis_address
    fault, evicted = None, 0
    try:
        if address:
            with closing(marks.connect(address)) as client:
                fault, evicted = redis_fault(client), client.info("stats").get("evicted_keys", 0)
        else:
            current_app.extensions["sluice.broker_depths"]()
    except Exception as error:  # noqa: BLE001 - each broker has errors of its own
        yield (
            f"The broker cannot be reached ({type(error).__name__}): jobs are accepted, and wait.",
            "Start it, or set REDIS_URL or CELERY_BROKER_URL to where it is.",
        )
        return
    if fault:
        problem, _, advice = fault.partition("; ")
        yield f"The broker: {problem}.", f"{advice[:1].upper()}{advice[1:]}."
    if evicted:
        yield (
            f"The broker has thrown {evicted} keys away since it started.",
            "Set maxmemory-policy to noeviction, give it more memory, and start it anew.",
        )


def applications() -> Found:
    """Others that use the same broker database, by the marks that they leave in it."""
    if not _settings().broker_redis_address:
        return
    mine, here = marks.identity(), marks.shared_settings(_settings())
    for mark in marks.found():
        if mark.ledger != mine:
            yield (
                f"An application with another ledger uses this broker database, on"
                f" {mark.machine}: each takes the other's messages.",
                "Give one of them a broker database of its own (REDIS_URL=redis://…/1).",
            )
        elif others := _differences(here, mark):
            yield (
                f"A program on {mark.machine} serves this ledger with other settings:"
                f" {', '.join(others)}.",
                "Give all machines the same settings, and restart what had others.",
            )


def _differences(here: dict[str, str], mark: Mark) -> list[str]:
    told = []
    for name, value in here.items():
        other = mark.settings.get(name)
        if other is not None and other != value:
            said = "another" if name == "SECRET_KEY" else f"{other!r} (here {value!r})"
            told.append(f"{name} is {said}")
    return told


def clocks() -> Found:
    """This machine's clock, the database's and the broker's, where they differ."""
    before = utc_now()
    database = db.session.scalars(select(db_now())).one()
    yield from _apart("database", database, before, utc_now())
    if _settings().broker_redis_address:
        with closing(marks.connect(_settings().broker_redis_address)) as client:
            before = utc_now()
            seconds, micros = client.time()
            after = utc_now()
        told = datetime.fromtimestamp(seconds + micros / 1e6, UTC)
        yield from _apart("broker", told, before, after)


def _apart(what: str, told: datetime, before: datetime, after: datetime) -> Found:
    ahead = (told - after).total_seconds()
    behind = (before - told).total_seconds()
    if max(ahead, behind) > CLOCK_SECONDS:
        differs = f"{ahead:.1f} s ahead of" if ahead > 0 else f"{behind:.1f} s behind"
        yield (
            f"The clock of the {what} is {differs} this machine's.",
            "Have both machines set their clocks by NTP. Leases and schedules go by the"
            " database's; log-ins and the ages of files by each machine's own.",
        )


# ---------------------------------------------------------------- workers


def served() -> Found:
    """Queues that no worker serves."""
    for queue in overview.queues():
        if not queue.slots:
            yield (
                f"No worker serves the queue {queue.name}; {queue.ready} jobs wait in it.",
                f"Start one: `celery -A celery_app worker -Q {queue.name}`.",
            )


def workers() -> Found:
    """Workers that have stopped to report without signing off."""
    for worker in overview.workers_list():
        if worker.seen_at is not None and not worker.is_alive:
            yield (
                f"The worker {worker.name} has not reported since"
                f" {worker.seen_at:%Y-%m-%d %H:%M:%S} UTC, which is over {WORKER_SECONDS:g} s:"
                " it was killed, or its machine is away.",
                "Start it again. If it is gone for good, it is forgotten within a day.",
            )


def pauses() -> Found:
    """Queues and kinds that are paused, and workers that are drained, for long."""
    words = {
        PauseScope.QUEUE: ("is paused", "flask --app app_v2 queues resume"),
        PauseScope.KIND: ("is paused", "flask --app app_v2 kinds resume"),
        PauseScope.WORKER: ("is drained", "flask --app app_v2 workers undrain"),
    }
    now = db.session.scalars(select(db_now())).one()
    old = select(Pause).where(Pause.paused_at < now - LONG_PAUSE)
    for pause in db.session.scalars(old.order_by(Pause.paused_at)):
        state, command = words[PauseScope(pause.scope)]
        by = f" by {pause.paused_by}" if pause.paused_by else ""
        why = f" ({pause.reason})" if pause.reason else ""
        yield (
            f"The {pause.scope} {pause.name} {state} since"
            f" {pause.paused_at:%Y-%m-%d %H:%M} UTC{by}{why}; {_waiting_for(pause)} jobs wait.",
            f"If that is over: `{command} {pause.name}`.",
        )


def _waiting_for(pause: Pause) -> int:
    waiting = select(func.count()).select_from(Job).where(IS_READY)
    if pause.scope == PauseScope.KIND:
        waiting = waiting.where(Job.kind == pause.name)
    elif pause.scope == PauseScope.QUEUE:
        waiting = waiting.where(Job.queue == pause.name)
    return db.session.scalar(waiting) or 0


# ---------------------------------------------------------------- files


def files() -> Found:
    """A store that is away, contents without a row, and rows without their content."""
    blobs = store()
    before = utc_now() - ORPHAN_AGE
    orphans = list(sweeping.find_orphans(db.session(), before, MOST_BLOBS))
    if orphans:
        yield (
            f"{len(orphans)} files in the store belong to no row of the ledger,"
            f" {sum(blob.size_bytes for blob in orphans)} bytes.",
            "The hourly clean-up removes them: look whether it runs"
            " (`flask --app app_v2 jobs list --kind jobs.clean_up`).",
        )
    newest = select(StoredFile).order_by(StoredFile.id.desc()).limit(SAMPLE)
    sample = db.session.scalars(newest).all()
    lost = [file for file in sample if not blobs.exists(blob_key(file.owner_id, file.sha256))]
    if lost:
        yield (
            f"The contents of {len(lost)} of the newest {len(sample)} files are not in the store;"
            f" the first has the id {lost[-1].id}.",
            "See that STORAGE_URL and DATA_DIR are the same everywhere; else restore the store"
            " from its backup.",
        )


def disk() -> Found:
    """A data folder without room."""
    settings = _settings()
    usage = shutil.disk_usage(settings.data_dir)
    if usage.free < FEWEST_FREE_BYTES:
        yield (
            f"Only {usage.free // MIB} of {usage.total // MIB} MiB are free where the data folder"
            f" {settings.data_dir} is.",
            "Make room, or move DATA_DIR to a larger disk.",
        )


def virus_scan() -> Found:
    """A virus scanner that is wanted and away."""
    try:
        if antivirus.is_on():
            antivirus.ping()
    except Unavailable:
        yield (
            f"clamd does not answer at {_settings().clamd_url}: files that are sent are refused.",
            "Start it, or set CLAMD_URL to where it is.",
        )


def database() -> Found:
    """A database that is away."""
    try:
        db.session.execute(select(1))
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own
        db.session.rollback()
        yield (
            f"The database cannot be reached ({type(error).__name__}).",
            "Start it, or set DATABASE_URL to where it is.",
        )


def _settings() -> Settings:
    found: Settings = current_app.config["SLUICE"]
    return found


CHECKS: tuple[Callable[[], Found], ...] = (
    database,
    disk,
    broker,
    applications,
    clocks,
    leases,
    schedules_due,
    served,
    workers,
    pauses,
    doorbells,
    files,
    virus_scan,
)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """What was found, as plain values."""
    told = [{"check": f.check, "problem": f.problem, "advice": f.advice} for f in findings]
    return {"success": True, "healthy": not findings, "findings": told}
