"""Slots of the clock: one job each, however many beats look."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy import func, literal, select

from backend.db import UtcDateTime, db, transaction
from backend.jobs import Schedule, schedules
from backend.jobs.models import Job, ScheduleSlot
from backend.jobs.schedules import slots_between
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import beside, on_both

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)

SetClock = Callable[[datetime], None]


@pytest.fixture
def set_clock(app: Flask, monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """Say what the database's clock shows."""

    def set_to(now: datetime) -> None:
        monkeypatch.setattr(schedules, "db_now", lambda: literal(now, UtcDateTime()))

    return set_to


def hourly(app: Flask, **own: str) -> Schedule:
    schedule = Schedule(name="hourly", cron="0 * * * *", kind=probes.echo, **own)  # type: ignore[arg-type]
    app.extensions["sluice.schedules"] = (schedule,)
    return schedule


def last_ran(at: datetime) -> None:
    with transaction() as session:
        session.add(ScheduleSlot(schedule="hourly", due_at=at, created_at=at))


def slots_with_a_job() -> list[datetime]:
    query = select(ScheduleSlot.due_at).where(ScheduleSlot.job_id.is_not(None))
    return sorted(db.session.scalars(query))


def jobs() -> int:
    return db.session.scalar(select(func.count()).select_from(Job)) or 0


def test_the_first_look_runs_nothing_of_the_past(app: Flask, set_clock: SetClock) -> None:
    hourly(app)
    set_clock(NOON + HOUR / 2)
    assert schedules.submit_due() == 0
    set_clock(NOON + HOUR)
    assert schedules.submit_due() == 1
    assert slots_with_a_job() == [NOON + HOUR]


@on_both
def test_five_beats_at_once_give_one_job_per_slot(app: Flask, set_clock: SetClock) -> None:
    hourly(app)
    last_ran(NOON)
    for hour in range(1, 6):
        set_clock(NOON + hour * HOUR + timedelta(seconds=1))
        assert sum(beside(app, *[schedules.submit_due] * 5)) == 1

    assert jobs() == 5
    assert slots_with_a_job() == [NOON + hour * HOUR for hour in range(1, 6)]


@pytest.mark.parametrize(("catch_up", "hours"), [("once", [3]), ("all", [1, 2, 3]), ("skip", [])])
def test_slots_missed_while_no_beat_ran_follow_the_schedules_policy(
    app: Flask, set_clock: SetClock, catch_up: str, hours: list[int]
) -> None:
    hourly(app, catch_up=catch_up)
    last_ran(NOON)
    set_clock(NOON + 3.5 * HOUR)
    schedules.submit_due()
    assert slots_with_a_job() == [NOON + hour * HOUR for hour in hours]

    assert schedules.submit_due() == 0
    set_clock(NOON + 4 * HOUR)
    assert schedules.submit_due() == 1


def test_a_slot_whose_job_cannot_be_submitted_is_not_used_up(
    app: Flask, set_clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hourly(app)
    last_ran(NOON)
    set_clock(NOON + HOUR)
    with monkeypatch.context() as patch:
        patch.setattr(schedules, "submit", lambda *_, **__: 1 / 0)
        assert schedules.submit_due() == 0

    assert schedules.submit_due() == 1


def test_a_schedule_whose_job_cannot_be_submitted_keeps_no_other_from_its_own(
    app: Flask, set_clock: SetClock
) -> None:
    broken = Schedule(name="broken", cron="0 * * * *", kind=probes.read)
    app.extensions["sluice.schedules"] = (broken, hourly(app))
    set_clock(NOON)
    schedules.submit_due()
    last_ran(NOON)
    set_clock(NOON + HOUR)

    assert schedules.submit_due() == 1
    assert slots_with_a_job() == [NOON + HOUR]


def test_however_many_slots_were_missed_all_of_them_run_where_that_is_the_policy(
    app: Flask, set_clock: SetClock
) -> None:
    minutely = Schedule(name="hourly", cron="* * * * *", kind=probes.echo, catch_up="all")
    app.extensions["sluice.schedules"] = (minutely,)
    last_ran(NOON)
    set_clock(NOON + 2 * HOUR)
    while schedules.submit_due():
        pass

    assert slots_with_a_job() == [NOON + timedelta(minutes=n) for n in range(1, 121)]


def test_slots_lie_after_the_one_time_and_up_to_the_other() -> None:
    assert [*slots_between("0 * * * *", NOON, NOON + 2 * HOUR)] == [NOON + HOUR, NOON + 2 * HOUR]
    assert [*slots_between("0 0 1 * *", NOON, NOON + HOUR)] == []
