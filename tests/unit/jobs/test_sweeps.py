"""Acts on many jobs: in slices, each job once, finished by the steward, and kept."""

from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import pytest
from flask import Flask
from sqlalchemy import func, select, update

from backend.db import db, db_now, transaction
from backend.jobs import (
    Queue,
    acts,
    attempts,
    batches,
    claims,
    duties,
    steward,
    submit,
    submit_batch,
    sweeps,
)
from backend.jobs.acts import Actor
from backend.jobs.models import Act, Job, JobEvent
from backend.jobs.orders import Action, Order
from backend.jobs.queries import Filter
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import (
    OWNER,
    STRANGER,
    Bell,
    beside,
    claimed,
    in_transaction,
    now,
    on_both,
    slot_of,
    submitted,
)

ROOT = Actor(by="root", via="command")


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_SLICE", "SMALLEST_SLICE", "LARGEST_SLICE"):
        monkeypatch.setattr(sweeps, name, 3)


def order(
    action: Action, *, force: bool = False, priority: int | None = None, **which: object
) -> Order:
    return Order(action=action, wanted=Filter(**which), force=force, priority=priority)  # type: ignore[arg-type]


def do(action: Action, *, seconds: float | None = None, **more: object) -> Act:
    return acts.carry_out(ROOT, order(action, **more), seconds=seconds)  # type: ignore[arg-type]


def failed(count: int) -> list[Job]:
    jobs = [submitted() for _ in range(count)]
    for _ in jobs:
        in_transaction(attempts.fail, claimed(), "It broke.", code="broken")
    return jobs


def batch_of(count: int, owner_id: int = OWNER) -> Job:
    with transaction() as session:
        items = [(f"item {number}", {}) for number in range(count)]
        return submit_batch(session, probes.close, owner_id, probes.once, items)


def states() -> Counter[str]:
    db.session.commit()
    return Counter(db.session.scalars(select(Job.state)))


def ends(job: Job) -> list[str]:
    db.session.commit()
    query = select(JobEvent.state).where(JobEvent.job_id == job.id).order_by(JobEvent.id)
    return list(db.session.scalars(query))


# ---------------------------------------------------------------- cancel


@on_both
def test_all_that_match_are_cancelled_each_with_one_event_and_nothing_else_is(app: Flask) -> None:
    jobs = [submitted() for _ in range(10)]
    other = submitted(probes.urgent)
    act = do(Action.CANCEL, kind="probe.echo")

    assert (act.matched, act.done, act.finished_at is not None) == (10, 10, True)
    assert [ends(job) for job in jobs] == [["queued", "cancelled"]] * 10
    assert now(other).state == "queued"


@on_both
def test_walking_through_all_jobs_finds_the_same(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "MANY", 0)
    monkeypatch.setattr(sweeps, "WINDOW", 4)
    for _ in range(6):
        submitted()
        submitted(probes.urgent)
    act = do(Action.CANCEL, queue=Queue.HIGH)

    assert (act.matched, act.done) == (6, 6)
    assert states() == {"cancelled": 6, "queued": 6}


@on_both
def test_what_runs_is_asked_and_what_was_asked_is_matched_again_only_by_force(app: Flask) -> None:
    submitted()
    held = claimed()
    assert do(Action.CANCEL).done == 1
    assert do(Action.CANCEL).matched == 0
    assert do(Action.CANCEL, force=True).done == 1
    assert in_transaction(attempts.wishes, held).force
    in_transaction(attempts.stop, held)


@on_both
def test_a_cancelled_batch_takes_its_children_along_and_ends(app: Flask) -> None:
    parents = [batch_of(7), batch_of(2)]
    act = do(Action.CANCEL, with_children=False)

    assert (act.matched, act.done) == (2, 2)
    assert [now(parent).state for parent in parents] == ["cancelled"] * 2
    assert states() == {"cancelled": 11}
    told = select(JobEvent.owner_id).join(Job, Job.id == JobEvent.job_id)
    assert set(db.session.scalars(told.where(Job.parent_id.is_not(None)))) == {None}


@on_both
def test_children_that_match_by_themselves_release_their_batch(app: Flask) -> None:
    parent = batch_of(5)
    assert do(Action.CANCEL, kind="probe.once").done == 5
    assert now(parent).state == "queued"


@on_both
def test_the_children_of_a_large_batch_that_was_cancelled_stop_a_part_at_a_time(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "ROWS_AT_ONCE", 2)
    parent = batch_of(7)
    in_transaction(batches.cancel, now(parent), by=OWNER)
    assert states() == {"cancelled": 2, "queued": 5, "cancelling": 1}

    assert steward.stop_children() == 5
    assert now(parent).state == "cancelled"
    assert steward.stop_children() == 0


def test_jobs_that_are_submitted_after_the_act_are_not_touched(app: Flask) -> None:
    submitted()
    act = do(Action.CANCEL, seconds=0)
    young = submitted()
    while acts.finish_some():
        pass

    assert (acts.find(act.id).done, now(young).state) == (1, "queued")


def test_an_owners_filter_matches_nobody_elses_jobs(app: Flask) -> None:
    with transaction() as session:
        other = submit(session, probes.echo, STRANGER)
    mine = submitted()
    assert (
        acts.carry_out(ROOT, Order(action=Action.CANCEL, wanted=Filter().of_owner(OWNER))).done == 1
    )
    assert (now(mine).state, now(other).state) == ("cancelled", "queued")


# ---------------------------------------------------------------- going on


@on_both
def test_what_a_request_leaves_the_steward_finishes(app: Flask) -> None:
    for _ in range(10):
        submitted()
    act = do(Action.CANCEL, seconds=0)
    assert (act.matched, act.done, act.finished_at) == (10, 0, None)

    assert acts.finish_some() == 10
    assert acts.find(act.id).finished_at is not None
    assert states() == {"cancelled": 10}
    assert acts.finish_some() == 0


@on_both
def test_an_act_whose_maker_died_goes_on_where_it_was_once_its_lease_is_over(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [submitted() for _ in range(10)]
    move = sweeps.Sweep._move

    def dies_in_the_third_slice(sweep: sweeps.Sweep, run: object) -> None:
        if sweep._done == 6:
            raise SystemExit
        move(sweep, run)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeps.Sweep, "_move", dies_in_the_third_slice)
    with pytest.raises(SystemExit):
        do(Action.CANCEL)
    monkeypatch.setattr(sweeps.Sweep, "_move", move)
    assert acts.finish_some() == 0  # another may still be at it
    with transaction() as session:
        session.execute(update(Act).values(lease_expires_at=db_now(-1)))

    assert acts.finish_some() == 4
    assert [ends(job) for job in jobs] == [["queued", "cancelled"]] * 10


@on_both
def test_one_whose_act_was_taken_over_writes_nothing_more(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(10):
        submitted()
    move = sweeps.Sweep._move

    def is_late_in_the_second_slice(sweep: sweeps.Sweep, run: object) -> None:
        if sweep._done == 3:
            with transaction() as session:
                session.execute(update(Act).values(token=uuid4()))
        move(sweep, run)  # type: ignore[arg-type]

    monkeypatch.setattr(sweeps.Sweep, "_move", is_late_in_the_second_slice)
    act = do(Action.CANCEL)

    assert (act.done, act.finished_at) == (3, None)
    assert states() == {"cancelled": 3, "queued": 7}


@on_both
def test_stewards_beside_each_other_do_each_job_once(app: Flask) -> None:
    jobs = [submitted() for _ in range(12)]
    act = do(Action.PRIORITY, seconds=0, priority=9)
    beside(app, *[acts.finish_some] * 4)
    while acts.finish_some():
        pass

    assert acts.find(act.id).done == 12
    assert {now(job).version for job in jobs} == {2}


# ---------------------------------------------------------------- retry


@on_both
def test_what_failed_is_tried_again_and_not_a_second_time_by_the_same_act(
    app: Flask, bell: Bell
) -> None:
    jobs = failed(5)
    for _ in range(2):
        submitted()
    bell.rung.clear()
    act = do(Action.RETRY, seconds=0, state=["failed"])
    for _ in range(2):  # after the act began
        in_transaction(attempts.fail, claimed(), "It broke.", code="broken")
    acts.finish_some()

    assert acts.find(act.id).done == 5
    assert {now(job).state for job in jobs} == {"queued"}
    assert {job_id for _, job_id in bell.rung} >= {job.id for job in jobs}
    assert states()["failed"] == 2


@on_both
def test_of_a_batch_that_is_tried_again_all_that_failed_runs_again(app: Flask) -> None:
    parent = batch_of(8)
    for number in range(8):
        held = claimed()
        if number in {0, 1, 2, 3, 6}:
            in_transaction(attempts.fail, held, "It broke.", code="broken")
        else:
            in_transaction(attempts.finish, held, {})
    in_transaction(batches.release, parent.id)
    in_transaction(attempts.finish, claimed(), {})
    act = do(Action.RETRY, with_children=False)

    assert (act.matched, act.done) == (1, 1)
    assert now(parent).state == "waiting"
    assert states() == {"waiting": 1, "queued": 5, "succeeded": 3}


@on_both
def test_children_that_are_tried_again_have_their_batch_wait_for_them(app: Flask) -> None:
    parent = batch_of(4)
    for _ in range(4):
        in_transaction(attempts.fail, claimed(), "It broke.", code="broken")
    in_transaction(batches.release, parent.id)
    in_transaction(attempts.finish, claimed(), {})
    act = do(Action.RETRY, parent_id=parent.id)

    assert (act.matched, act.done) == (4, 4)
    assert states() == {"waiting": 1, "queued": 4}


@on_both
def test_children_of_a_batch_that_is_just_being_closed_are_left(app: Flask) -> None:
    parent = batch_of(1)
    in_transaction(attempts.fail, claimed(), "It broke.", code="broken")
    in_transaction(batches.release, parent.id)
    act = do(Action.RETRY, state=["failed"])

    assert (act.matched, act.done, act.finished_at is not None) == (1, 0, True)
    assert now(parent).state == "queued"


# ---------------------------------------------------------------- discard


@on_both
def test_ended_jobs_go_and_active_ones_stay(app: Flask) -> None:
    failed(5)
    stays = submitted()
    assert do(Action.DISCARD).done == 5
    assert db.session.scalars(select(Job.id)).all() == [stays.id]


@on_both
def test_a_large_batch_goes_a_part_at_a_time_and_its_owner_never_meets_one(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, small = batch_of(7), batch_of(1)
    for each in (parent, small):
        in_transaction(batches.cancel, now(each), by=OWNER)
    seen: list[tuple[int, int]] = []
    write = sweeps.Sweep._write

    def watched(sweep: sweeps.Sweep, *args: object, **values: object) -> None:
        write(sweep, *args, **values)  # type: ignore[arg-type]
        owned = select(func.count()).where(Job.id == parent.id, Job.owner_id == OWNER)
        children = select(func.count()).where(Job.parent_id == parent.id)
        seen.append((db.session.scalar(owned) or 0, db.session.scalar(children) or 0))

    monkeypatch.setattr(sweeps.Sweep, "_write", watched)
    act = acts.carry_out(ROOT, Order(action=Action.DISCARD, wanted=Filter().of_owner(OWNER)))

    assert (act.matched, act.done) == (2, 2)
    assert seen[:4] == [(0, 7), (0, 4), (0, 1), (0, 0)]
    assert states() == {}


# ---------------------------------------------------------------- run now, priority


@on_both
def test_a_job_that_waits_for_its_time_runs_now(app: Flask, bell: Bell) -> None:
    job = submitted()
    held = claimed()
    in_transaction(attempts.try_later, held, "away", code="unavailable", wait_seconds=3600)
    assert in_transaction(claims.claim, slot_of(Queue.DEFAULT)) == []
    bell.rung.clear()

    assert do(Action.RUN_NOW).done == 1
    assert bell.rung == [(Queue.DEFAULT, job.id)]
    assert claimed().job_id == job.id
    assert do(Action.RUN_NOW).matched == 0


@on_both
def test_a_job_of_higher_priority_is_claimed_first(app: Flask) -> None:
    submitted()
    last = submitted()
    assert do(Action.PRIORITY, priority=9, ids=[last.id]).done == 1
    assert claimed().job_id == last.id
    assert do(Action.PRIORITY, priority=9, ids=[last.id]).matched == 0


# ---------------------------------------------------------------- the record


def test_an_act_on_nothing_says_so_and_is_kept(app: Flask) -> None:
    act = do(Action.CANCEL, kind="probe.urgent")
    assert acts.sentence(act) == "No job matches that could be changed by cancel."
    assert (act.by, act.filter) == ("root", {"kind": "probe.urgent"})


def test_acts_are_kept_for_a_year(app: Flask) -> None:
    kept, gone = do(Action.CANCEL), do(Action.CANCEL)
    with transaction() as session:
        for act, days in ((kept, 360), (gone, 370)):
            old = update(Act).where(Act.id == act.id)
            session.execute(old.values(finished_at=db_now(-86400.0 * days)))
    with transaction() as session:
        duties.forget_acts(session)

    assert list(db.session.scalars(select(Act.id))) == [kept.id]


def test_a_page_of_acts_goes_on_after_the_last(app: Flask) -> None:
    made = [do(Action.CANCEL).id for _ in range(3)][::-1]

    def pages() -> Iterator[list[object]]:
        cursor = None
        while True:
            page = acts.page(db.session(), cursor, 2)
            yield [act.id for act in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return

    assert [*pages()] == [made[:2], made[2:]]
