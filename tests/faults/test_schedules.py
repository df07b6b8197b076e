"""Several beats, and none for a while."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import pytest
from sqlalchemy import delete, select

from backend.db import transaction
from backend.jobs.models import Job, ScheduleSlot
from tests.faults.bench import Bench, until
from tests.faults.scheduled import EACH_SECOND, HALF_HOURLY
from tests.integration.probes import nap, tick

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

BEATS = tuple(f"beat-{number}" for number in range(1, 6))


def slots(bench: Bench, schedule: str) -> list[ScheduleSlot]:
    with bench.ledger() as session:
        query = select(ScheduleSlot).where(ScheduleSlot.schedule == schedule)
        return list(session.scalars(query.order_by(ScheduleSlot.due_at)))


def started(bench: Bench) -> set[UUID]:
    """The jobs that schedules have started."""
    with bench.ledger() as session:
        return set(session.scalars(select(Job.id).where(Job.kind == tick.name)))


def forget(bench: Bench) -> set[UUID]:
    """Forget every slot of these schedules; return the jobs that they had started so far."""
    names = [schedule.name for schedule in (EACH_SECOND, *HALF_HOURLY)]
    with bench.app.app_context(), transaction() as session:
        session.execute(delete(ScheduleSlot).where(ScheduleSlot.schedule.in_(names)))
    return started(bench)


@pytest.mark.row(19)
@pytest.mark.parametrize("beats", [2, 5])
def test_any_number_of_beats_is_one_job_for_each_slot(bench: Bench, beats: int) -> None:
    before = forget(bench)
    bench.start(*BEATS[:beats])
    until(lambda: len(slots(bench, EACH_SECOND.name)) > 6, "six seconds have passed", 30)
    for name in BEATS[:beats]:
        bench.kill(name)

    _, *taken = slots(bench, EACH_SECOND.name)
    assert all(b.due_at - a.due_at == timedelta(seconds=1) for a, b in pairwise(taken))
    assert max(Counter(slot.job_id for slot in taken).values()) == 1
    bench.assert_done_once(*[slot.job_id for slot in taken if slot.job_id])
    others = {slot.job_id for each in HALF_HOURLY for slot in slots(bench, each.name)}
    assert started(bench) - before - others == {slot.job_id for slot in taken}


@pytest.mark.row(20)
def test_what_a_dead_beat_missed_is_run_by_each_schedules_policy_and_recorded(
    bench: Bench,
) -> None:
    forget(bench)
    died_at = datetime.now(UTC) - timedelta(hours=2)
    with bench.app.app_context(), transaction() as session:
        for schedule in HALF_HOURLY:
            slot = ScheduleSlot(schedule=schedule.name, due_at=died_at, created_at=died_at)
            session.add(slot)
    bench.start(BEATS[0])
    # The schedules are looked at in this order.
    until(lambda: len(slots(bench, "all")) > 4, "the slots are made good")
    bench.kill(BEATS[0])

    missed = {policy: slots(bench, policy)[1:] for policy in ("skip", "once", "all")}
    assert len(missed["all"]) in {4, 5}
    assert all(slot.job_id for slot in missed["all"])
    assert [slot.due_at for slot in missed["once"]] == [missed["all"][-1].due_at]
    assert missed["once"][0].job_id
    assert [slot.due_at for slot in missed["skip"]] == [missed["all"][-1].due_at]
    late = datetime.now(UTC) - missed["skip"][0].due_at > timedelta(minutes=1)
    assert bool(missed["skip"][0].job_id) is not late
    jobs = [slot.job_id for slot in [*missed["all"], *missed["once"]] if slot.job_id]
    bench.assert_done_once(*jobs)


@pytest.mark.row(20)
def test_a_dead_beat_holds_up_nothing_that_is_rung_for(bench: Bench) -> None:
    with bench.killed("beat"):
        bench.assert_done_once(bench.submit(nap, seconds=0.0), seconds=5)
