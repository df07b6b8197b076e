"""The housekeeping: each duty alone, and beside others."""

from collections.abc import Callable
from uuid import UUID

import pytest
from flask import Flask
from sqlalchemy import update

from backend.db import db_now, transaction
from backend.jobs import Queue, actions, attempts, batches, steward, submit_batch
from backend.jobs.claims import Claim
from backend.jobs.models import Job, Pause, PauseScope
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import (
    OWNER,
    Bell,
    beside,
    claimed,
    in_transaction,
    now,
    on_both,
    submitted,
)

SetDepths = Callable[..., None]


@pytest.fixture
def messages(app: Flask, bell: Bell) -> SetDepths:
    """Say how many messages wait in the broker, and forget who was rung for."""

    def set_to(**depths: int) -> None:
        app.extensions["sluice.broker_depths"] = lambda: depths
        bell.rung.clear()

    return set_to


def expire(held: Claim) -> None:
    with transaction() as session:
        expired = update(Job).where(Job.id == held.job_id)
        session.execute(expired.values(lease_expires_at=db_now(-1)))


def batch_of_one() -> Job:
    with transaction() as session:
        return submit_batch(session, probes.close, OWNER, probes.once, [("the item", {})])


# ---------------------------------------------------------------- redispatch


@on_both
def test_a_ready_job_without_a_message_is_rung_for_again(
    app: Flask, bell: Bell, messages: SetDepths
) -> None:
    jobs = [submitted(), submitted(), submitted(probes.urgent)]
    messages(default=1)

    assert steward.redispatch() == 2
    assert sorted(bell.rung) == sorted([(Queue.DEFAULT, jobs[0].id), (Queue.HIGH, jobs[2].id)])


def test_a_backlog_whose_messages_are_all_there_is_left_alone(
    app: Flask, bell: Bell, messages: SetDepths
) -> None:
    for _ in range(3):
        submitted()
    messages(default=3)

    assert steward.redispatch() == 0
    assert bell.rung == []


def test_for_a_long_backlog_as_many_messages_wait_as_are_of_use(
    app: Flask, bell: Bell, messages: SetDepths
) -> None:
    with transaction() as session:
        children = [(f"{n}", {}) for n in range(250)]
        submit_batch(session, probes.close, OWNER, probes.once, children)
    messages()

    assert steward.redispatch() == batches.RINGS_AT_ONCE
    messages(default=100)
    assert steward.redispatch() == 0
    messages(default=40)
    assert steward.redispatch() == 60


def test_a_retry_is_rung_for_once_it_is_due_and_not_before(
    app: Flask, bell: Bell, messages: SetDepths
) -> None:
    job = submitted()
    held = claimed()
    in_transaction(attempts.try_later, held, "away", code="unavailable", wait_seconds=3600)
    messages()
    assert steward.redispatch() == 0
    with transaction() as session:
        session.execute(update(Job).values(run_at=db_now(-1)))

    assert steward.redispatch() == 1
    assert bell.rung == [(Queue.DEFAULT, job.id)]


def test_a_paused_queue_is_not_rung_for_until_it_is_resumed(
    app: Flask, bell: Bell, messages: SetDepths
) -> None:
    submitted()
    with transaction() as session:
        session.add(
            Pause(scope=PauseScope.QUEUE, name=Queue.DEFAULT, paused_at=db_now(), reason="")
        )
    messages()
    assert steward.redispatch() == 0
    with transaction() as session:
        session.delete(session.get_one(Pause, (PauseScope.QUEUE, Queue.DEFAULT)))

    assert steward.redispatch() == 1


# ---------------------------------------------------------------- rescue and release


@on_both
def test_the_last_child_rescued_as_poison_releases_its_parent(app: Flask) -> None:
    parent = batch_of_one()
    expire(claimed())
    assert steward.rescue() == 1

    assert now(parent).state == "queued"


@on_both
def test_a_parent_whose_last_childs_slot_died_before_telling_is_released_once(app: Flask) -> None:
    parent = batch_of_one()
    in_transaction(attempts.finish, claimed(), {})
    assert now(parent).state == "waiting"

    assert sum(beside(app, *[steward.release_parents] * 4)) == 1
    assert now(parent).state == "queued"
    assert steward.release_parents() == 0


@on_both
def test_a_parent_that_was_asked_to_stop_ends_with_its_last_child(app: Flask) -> None:
    parent = batch_of_one()
    held = claimed()
    in_transaction(batches.cancel, now(parent), by=OWNER)
    assert steward.release_parents() == 0
    in_transaction(attempts.stop, held)

    assert steward.release_parents() == 1
    assert now(parent).state == "cancelled"


def test_a_parent_with_a_child_under_way_stays(app: Flask) -> None:
    parent = batch_of_one()
    held = claimed()
    assert steward.release_parents() == 0
    in_transaction(attempts.finish, held, {})
    assert now(parent).state == "waiting"


# ---------------------------------------------------------------- all of it


def test_a_duty_that_fails_does_not_stop_the_others(app: Flask, messages: SetDepths) -> None:
    def unreachable() -> dict[str, int]:
        raise OSError("the broker is away")

    app.extensions["sluice.schedules"] = ()
    job = submitted()
    expire(claimed())
    app.extensions["sluice.broker_depths"] = unreachable
    steward.tick()

    assert now(job).state == "queued"


@on_both
def test_stewards_beside_each_other_leave_a_sound_ledger(app: Flask, messages: SetDepths) -> None:
    app.extensions["sluice.schedules"] = ()
    parents = [batch_of_one() for _ in range(8)]
    held = [claimed(name=f"w@test/{number}") for number in range(8)]
    for claim in held[:4]:
        expire(claim)
    messages()
    beside(app, *[steward.tick] * 4, *[lambda one=one: finish(one) for one in held[2:6]])
    steward.tick()

    states = {ids: now(ids).state for ids in (parent.id for parent in parents)}
    assert set(states.values()) == {"queued", "waiting"}
    assert sum(state == "waiting" for state in states.values()) == 2


def finish(held: Claim) -> UUID | None:
    job = in_transaction(attempts.finish, held, {})
    return job.id if job else None


def test_a_round_with_nothing_to_do_writes_nothing(app: Flask, messages: SetDepths) -> None:
    app.extensions["sluice.schedules"] = ()
    job = submitted()
    messages(default=1)
    before = now(job).version
    steward.tick()

    assert now(job).version == before


@on_both
def test_what_children_said_while_the_last_news_was_fresh_is_shown_later(app: Flask) -> None:
    with transaction() as session:
        items = [(f"item {number}", {}) for number in range(3)]
        parent = submit_batch(session, probes.close, OWNER, probes.once, items)

    def rolled_up(seconds_ago: float) -> None:
        with transaction() as session:
            found = session.get_one(Job, parent.id)
            found.rolled_up_at = db_now(-seconds_ago)

    finish(claimed())
    actions.tell_parent(parent.id)
    rolled_up(seconds_ago=-60)
    finish(claimed())
    actions.tell_parent(parent.id)  # too soon, and then nobody says anything
    assert now(parent).items_done == 1
    rolled_up(seconds_ago=1)

    assert steward.show_children() == 1
    assert now(parent).items_done == 2
    assert steward.show_children() == 0
