"""Parents and their children, on both databases."""

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db import db, transaction
from backend.errors import Conflict
from backend.jobs import Queue, actions, attempts, batches, ledger, submit_batch
from backend.jobs.claims import Claim
from backend.jobs.models import Artifact, Job, JobEvent
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import (
    OWNER,
    Bell,
    at_once,
    claim_one,
    claimed,
    in_transaction,
    now,
    on_both,
    race,
    slot_of,
)


def batch_of(count: int) -> Job:
    with transaction() as session:
        children = [(f"item {number}", {"text": str(number)}) for number in range(count)]
        return submit_batch(session, probes.close, OWNER, probes.echo, children, label="a batch")


def children_of(parent: Job) -> list[Job]:
    db.session.commit()
    query = select(Job).where(Job.parent_id == parent.id).order_by(Job.item)
    return list(db.session.scalars(query.execution_options(populate_existing=True)))


def states_of(parent: Job) -> list[str]:
    return [child.state for child in children_of(parent)]


def cancel(parent: Job, *, force: bool = False) -> Job:
    found: Job = in_transaction(batches.cancel, now(parent), by=OWNER, force=force)
    return found


def retry(job: Job) -> Job:
    found: Job = in_transaction(actions.retry, now(job))
    return found


def end(held: Claim, *, well: bool = True) -> None:
    """End a child's attempt, and then its part in the batch, as a slot does."""
    if well:
        in_transaction(attempts.finish, held, {"text": "done"})
    else:
        in_transaction(attempts.fail, held, "It broke.", code="broken")
    if held.parent_id:
        in_transaction(batches.release, held.parent_id)


def end_all(count: int, *, failing: tuple[int, ...] = ()) -> None:
    for number in range(count):
        end(claimed(), well=number not in failing)


# ---------------------------------------------------------------- submit


@on_both
def test_a_batch_waits_while_its_children_are_ready_in_the_order_of_their_items(
    app: Flask, bell: Bell
) -> None:
    parent = batch_of(3)

    assert (now(parent).state, now(parent).items_total) == ("waiting", 3)
    assert [child.label for child in children_of(parent)] == ["item 0", "item 1", "item 2"]
    assert [job_id for _, job_id in bell.rung] == [child.id for child in children_of(parent)]


@on_both
def test_an_empty_batch_goes_straight_to_its_closing_step(app: Flask) -> None:
    parent = batch_of(0)
    assert claimed().job_id == parent.id


@on_both
def test_children_may_come_from_a_generator_and_only_the_first_hundred_are_rung_for(
    app: Flask, bell: Bell
) -> None:
    def many() -> Iterator[batches.Child]:
        for number in range(2500):
            yield f"item {number}", {"text": str(number)}

    with transaction() as session:
        parent = submit_batch(session, probes.close, OWNER, probes.echo, many())

    assert now(parent).items_total == 2500
    count = select(func.count()).where(Job.parent_id == parent.id)
    assert db.session.scalar(count) == 2500
    assert len(bell.rung) == batches.RINGS_AT_ONCE


# ---------------------------------------------------------------- release


@on_both
def test_the_closing_step_comes_after_the_last_child_also_when_some_failed(app: Flask) -> None:
    parent = batch_of(3)
    end_all(2, failing=(1,))
    assert now(parent).state == "waiting"
    end_all(1)

    assert (now(parent).state, now(parent).items_done) == ("queued", 3)
    assert claimed().job_id == parent.id


@on_both
def test_children_that_end_at_the_same_moment_release_their_parent_once(
    app: Flask, bell: Bell
) -> None:
    for _ in range(15):
        parent = batch_of(2)
        held = [claimed(), claimed()]
        bell.rung.clear()

        def finish(session: Session, held: Claim) -> None:
            attempts.finish(session, held, {})

        def release(session: Session) -> Job | None:
            return batches.release(session, parent.id)  # noqa: B023 - called at once

        at_once(app, *[lambda session, one=one: finish(session, one) for one in held])
        released = [one for one in at_once(app, *[release] * 3) if one]

        assert len(released) == 1
        assert bell.rung == [(Queue.DEFAULT, parent.id)]
        assert events(parent) == ["waiting", "queued"]
        end(claimed())


def events(job: Job) -> list[str]:
    db.session.commit()
    query = select(JobEvent.state).where(JobEvent.job_id == job.id).order_by(JobEvent.id)
    return list(db.session.scalars(query))


@on_both
def test_progress_of_the_children_shows_on_the_parent_and_never_falls(app: Flask) -> None:
    parent = batch_of(4)
    seen = []
    for _ in range(4):
        held = claimed()
        report = attempts.Progress(percent=50, stage="work", message="half")
        in_transaction(attempts.report, held, report)
        with transaction() as session:
            session.get_one(Job, parent.id).rolled_up_at = None
            session.flush()
            batches.roll_up(session, parent.id, 0.8)
        seen.append(now(parent).percent)
        in_transaction(attempts.finish, held, {})

    assert seen == pytest.approx([10, 30, 50, 70])
    in_transaction(batches.release, parent.id)


def test_progress_is_rolled_up_at_most_four_times_a_second_however_many_report(
    app: Flask,
) -> None:
    parent = batch_of(2)
    before = now(parent).version
    for _ in range(50):
        in_transaction(batches.roll_up, parent.id, 1.0)

    assert now(parent).version - before <= 2


# ---------------------------------------------------------------- cancel


@on_both
def test_cancelling_a_batch_stops_what_waits_asks_what_runs_and_keeps_what_is_done(
    app: Flask,
) -> None:
    parent = batch_of(4)
    end(claimed())
    under_way = claimed()
    cancel(parent)

    assert states_of(parent) == ["succeeded", "cancelling", "cancelled", "cancelled"]
    assert now(parent).state == "cancelling"
    in_transaction(attempts.stop, under_way)
    in_transaction(batches.release, parent.id)
    assert now(parent).state == "cancelled"
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is None


@on_both
def test_a_batch_of_which_nothing_runs_is_cancelled_at_once(app: Flask) -> None:
    parent = batch_of(3)
    assert cancel(parent).state == "cancelled"
    assert states_of(parent) == ["cancelled"] * 3


@on_both
def test_a_forced_cancel_reaches_the_children_also_when_it_comes_second(app: Flask) -> None:
    parent = batch_of(1)
    held = claimed()
    cancel(parent)
    cancel(parent, force=True)

    assert in_transaction(attempts.wishes, held).force
    in_transaction(attempts.stop, held, "killed")
    in_transaction(batches.release, parent.id)


@on_both
def test_the_closing_step_can_be_cancelled_too(app: Flask) -> None:
    parent = batch_of(1)
    end(claimed())
    held = claimed()
    assert cancel(parent).state == "cancelling"
    in_transaction(attempts.stop, held)

    assert now(parent).state == "cancelled"


@on_both
def test_children_claimed_or_handed_back_during_a_cancel_stop_all_the_same(app: Flask) -> None:
    for _ in range(8):
        parent = batch_of(12)
        held = [claimed() for _ in range(6)]

        def claim_on(session: Session, number: int) -> Claim | None:
            return claim_one(session, slot_of(Queue.DEFAULT))

        def hand_back(session: Session, number: int) -> None:
            attempts.give_back(session, held[number], "lost", note="gone", charged=True)  # noqa: B023

        def cancel_once(session: Session, number: int) -> None:
            if number == 2:
                job = session.get_one(Job, parent.id)  # noqa: B023
                batches.cancel(session, job, by=OWNER)

        def work(session: Session, number: int) -> Claim | None:
            if number % 2:
                hand_back(session, number)
                return None
            return claim_on(session, number)

        race(app, range(6), work, cancel_once)

        states = states_of(parent)
        assert set(states) <= {"cancelled", "cancelling"}
        for child in children_of(parent):
            assert events(child).count("cancelled") == (child.state == "cancelled")
            if child.state == "cancelling":
                in_transaction(attempts.stop, attempts.fence_of(child))
        in_transaction(batches.release, parent.id)
        assert now(parent).state == "cancelled"


# ---------------------------------------------------------------- retry


@on_both
def test_trying_a_batch_again_runs_only_what_failed_and_closes_anew(app: Flask) -> None:
    parent = batch_of(4)
    end_all(4, failing=(1, 3))
    end(claimed())
    assert now(parent).state == "succeeded"
    retry(parent)

    assert (now(parent).state, now(parent).percent, now(parent).result) == ("waiting", 0, None)
    assert states_of(parent) == ["succeeded", "queued", "succeeded", "queued"]
    end_all(2)
    end(claimed())
    assert (now(parent).state, states_of(parent)) == ("succeeded", ["succeeded"] * 4)


@on_both
def test_what_the_closing_step_had_made_is_gone_once_it_is_to_be_made_anew(app: Flask) -> None:
    parent = batch_of(1)
    end_all(1, failing=(0,))
    held = claimed()
    in_transaction(attempts.save_checkpoint, held, {"bundled": 1})
    with transaction() as session:
        attempts.finish(session, held, {})
        session.add(
            Artifact(
                job_id=parent.id,
                name="old.zip",
                media_type="application/zip",
                size_bytes=1,
                created_at=now(parent).created_at,
            )
        )
    retry(parent)

    assert db.session.scalars(select(Artifact)).all() == []
    assert now(parent).checkpoint is None


@on_both
def test_of_batch_retries_at_the_same_moment_one_is_done(app: Flask) -> None:
    parent = batch_of(3)
    end_all(3, failing=(0, 1))
    end(claimed())

    def again(session: Session) -> Job:
        return actions.retry(session, session.get_one(Job, parent.id))

    answers = at_once(app, *[again] * 4)

    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 3
    assert [events(child).count("queued") for child in children_of(parent)] == [1, 1, 0]


@on_both
def test_a_batch_of_which_nothing_failed_is_not_tried_again(app: Flask) -> None:
    parent = batch_of(2)
    end_all(3)
    with pytest.raises(Conflict, match="This job is succeeded"):
        retry(parent)


@on_both
def test_a_closing_step_that_failed_runs_again_without_the_children(app: Flask) -> None:
    parent = batch_of(2)
    end_all(2)
    end(claimed(), well=False)
    retry(parent)

    assert states_of(parent) == ["succeeded", "succeeded"]
    assert claimed().job_id == parent.id


@on_both
def test_trying_one_child_again_has_the_ended_batch_wait_for_it_and_close_anew(app: Flask) -> None:
    parent = batch_of(3)
    end_all(3, failing=(0, 1))
    end(claimed())
    first = children_of(parent)[0]
    retry(first)

    assert now(parent).state == "waiting"
    assert states_of(parent) == ["queued", "failed", "succeeded"]
    with pytest.raises(Conflict, match="This job is waiting"):
        in_transaction(ledger.remove, now(parent))
    end_all(1)
    end(claimed())
    assert now(parent).state == "succeeded"


@on_both
def test_a_child_is_not_tried_again_while_its_batch_is_being_closed(app: Flask) -> None:
    parent = batch_of(2)
    end_all(2, failing=(0,))
    child = children_of(parent)[0]
    assert now(parent).state == "queued"
    with pytest.raises(Conflict, match="being closed"):
        retry(child)
    held = claimed()
    with pytest.raises(Conflict, match="being closed"):
        retry(child)

    assert now(child).state == "failed"
    end(held)


@on_both
def test_a_child_tried_again_as_the_last_one_ends_is_waited_for_or_refused(app: Flask) -> None:
    def again(session: Session, pair: tuple[Job, Claim]) -> bool:
        try:
            actions.retry(session, session.get_one(Job, pair[0].id))
        except Conflict:
            return False
        return True

    def last_one_ends(session: Session, pair: tuple[Job, Claim]) -> None:
        attempts.finish(session, pair[1], {})
        session.commit()
        batches.release(session, pair[1].parent_id)  # type: ignore[arg-type]

    pairs = []
    for _ in range(25):
        batch_of(2)
        failed = claimed()
        end(failed, well=False)
        pairs.append((now(failed.job_id), claimed()))
    told = race(app, pairs, again, last_one_ends)

    for (child, _), (accepted, _) in zip(pairs, told, strict=True):
        assert now(child).state == ("queued" if accepted else "failed")
        parent_id: Any = child.parent_id
        assert now(parent_id).state == ("waiting" if accepted else "queued")


# ---------------------------------------------------------------- delete


@on_both
def test_a_batch_is_deleted_with_its_children_once_it_has_ended(app: Flask) -> None:
    parent = batch_of(2)
    with pytest.raises(Conflict, match="This job is waiting"):
        in_transaction(ledger.remove, now(parent))
    cancel(parent)
    in_transaction(ledger.remove, now(parent))

    assert db.session.scalar(select(func.count()).select_from(Job)) == 0
