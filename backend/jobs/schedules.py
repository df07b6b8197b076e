"""Cron: a slot of a schedule is a unique row, inserted in the same transaction as its job."""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import Any, Literal

import structlog
from cronsim import CronSim
from flask import current_app
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from backend.db import AWAY, db, db_now, transaction
from backend.jobs.kinds import JobKind
from backend.jobs.ledger import submit
from backend.jobs.models import ScheduleSlot

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 100
# The slot that says since when a schedule is known; the same for all beats, so that one counts.
FIRST_SIGHT = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a kind of job is started by the clock. `cron` is in UTC.

    `catch_up` says what becomes of slots that passed while no beat ran: `once` runs the latest
    of them, `all` each of them, `skip` none.
    """

    name: str
    cron: str
    kind: JobKind[Any, Any]
    params: Mapping[str, Any] = field(default_factory=dict)
    catch_up: Literal["skip", "once", "all"] = "once"


def submit_due() -> int:
    """Submit the jobs of the slots that have come; return how many.

    A schedule whose job cannot be submitted keeps none of the others from theirs.
    """
    schedules: tuple[Schedule, ...] = current_app.extensions["sluice.schedules"]
    now = db.session.scalars(select(db_now())).one()
    last = last_slots()
    db.session.commit()
    submitted = 0
    for schedule in schedules:
        try:
            submitted += _submit_due(schedule, last.get(schedule.name), now)
        except AWAY:
            raise
        except Exception:
            log.exception("schedule_failed", schedule=schedule.name)
    return submitted


def last_slots() -> dict[str, datetime]:
    """When each schedule was due last; of one that was not yet, since when it is known."""
    newest = select(
        ScheduleSlot.schedule, func.max(ScheduleSlot.due_at), func.max(ScheduleSlot.created_at)
    ).group_by(ScheduleSlot.schedule)
    return {
        name: due_at if due_at > FIRST_SIGHT else seen_at
        for name, due_at, seen_at in db.session.execute(newest)
    }


def _submit_due(schedule: Schedule, last: datetime | None, now: datetime) -> int:
    if last is None:
        # The count begins here, and the past is nobody's.
        _take(schedule, FIRST_SIGHT, run=False)
        return 0
    passed = slots_between(schedule.cron, last, now)
    late = timedelta(minutes=1)
    due: Collection[datetime]
    if schedule.catch_up == "once":
        due = deque(passed, maxlen=1)
    elif schedule.catch_up == "skip":
        newest = deque(passed, maxlen=MOST_AT_ONCE)
        due = [slot for slot in newest if now - slot <= late] or [*newest][-1:]
    else:
        due = [*islice(passed, MOST_AT_ONCE)]  # the others at the next look
    return sum(
        _take(schedule, slot, run=schedule.catch_up != "skip" or now - slot <= late) for slot in due
    )


def slots_between(cron: str, after: datetime, until: datetime) -> Iterator[datetime]:
    """The slots after one time and up to another, in order."""
    return takewhile(lambda slot: slot <= until, CronSim(cron, after))


def _take(schedule: Schedule, due_at: datetime, *, run: bool) -> int:
    try:
        with transaction() as session:
            slot = ScheduleSlot(schedule=schedule.name, due_at=due_at, created_at=db_now())
            session.add(slot)
            session.flush()
            if run:
                slot.job_id = submit(session, schedule.kind, None, **schedule.params).id
    except IntegrityError:
        return 0  # another beat was first
    return int(run)
