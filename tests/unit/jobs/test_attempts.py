"""The workers' side of the ledger, on both databases."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session

from backend.db import db, db_now, transaction
from backend.jobs import (
    Queue,
    attempts,
    batches,
    ledger,
    steward,
    submit,
    submit_batch,
)
from backend.jobs.attempts import Progress
from backend.jobs.claims import Claim, Fence, Level
from backend.jobs.models import Attempt, Job, JobEvent, Pause, PauseScope
from backend.jobs.states import ENDED
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import (
    OWNER,
    STRANGER,
    at_once,
    beside,
    claim_one,
    claimed,
    in_transaction,
    now,
    on_both,
    race,
    running,
    slot_of,
    submitted,
)


def claim(session: Session) -> Claim | None:
    return claim_one(session, slot_of(Queue.DEFAULT))


def shown(percent: float, message: str = "reading") -> Progress:
    return Progress(percent=percent, stage="read", message=message, items_done=1, items_total=8)


def let_lease_expire(job: Job) -> None:
    with transaction() as session:
        session.execute(update(Job).where(Job.id == job.id).values(lease_expires_at=db_now(-1)))


# ---------------------------------------------------------------- claim


@on_both
def test_many_claimers_at_once_take_each_job_once(app: Flask) -> None:
    with transaction() as session:
        jobs = {submit(session, probes.echo, OWNER, text="x").id for _ in range(8)}

    answers = at_once(app, *[claim] * 12)

    taken = [answer.job_id for answer in answers if isinstance(answer, Claim)]
    assert sorted(taken) == sorted(jobs)
    assert [answer for answer in answers if not isinstance(answer, Claim)] == [None] * 4
    assert len({answer.token for answer in answers if answer}) == 8


@on_both
def test_the_most_urgent_comes_first_and_the_oldest_among_equals(app: Flask) -> None:
    with transaction() as session:
        first, second, third = (submit(session, probes.echo, OWNER, text=f"{n}") for n in range(3))
    with transaction() as session:
        session.execute(update(Job).where(Job.id == third.id).values(priority=9))

    assert [claimed().job_id for _ in range(3)] == [third.id, first.id, second.id]


@on_both
def test_what_is_not_due_or_of_another_queue_or_paused_is_not_taken(app: Flask) -> None:
    later, urgent = submitted(), submitted(probes.urgent)
    with transaction() as session:
        session.execute(update(Job).where(Job.id == later.id).values(run_at=db_now(3600)))
        session.add(
            Pause(
                scope=PauseScope.QUEUE, name=Queue.HIGH, paused_at=db_now(), reason="moving house"
            )
        )

    assert in_transaction(claim) is None
    assert in_transaction(claim_one, slot_of(Queue.HIGH)) is None
    with transaction() as session:
        session.delete(session.get_one(Pause, (PauseScope.QUEUE, Queue.HIGH)))
    assert claimed(Queue.HIGH).job_id == urgent.id


@on_both
def test_a_claim_counts_at_once_and_holds_a_lease_by_the_databases_clock(app: Flask) -> None:
    job, held = running()

    row = now(job)
    assert (row.state, row.attempt, row.token, row.worker) == (
        *("running", 1, held.token),
        "w@test/1",
    )
    clock = db.session.scalars(select(db_now())).one()
    assert row.lease_expires_at is not None
    assert timedelta(seconds=55) < row.lease_expires_at - clock <= timedelta(seconds=60)


# ---------------------------------------------------------------- the fence


LATE_WRITES: dict[str, Any] = {
    "renew": lambda session, held: attempts.renew(session, held, 60),
    "wishes": attempts.wishes,
    "report": lambda session, held: attempts.report(session, held, shown(99)),
    "hold": attempts.hold,
    "checkpoint": lambda session, held: attempts.save_checkpoint(session, held, {"late": True}),
    "finish": lambda session, held: attempts.finish(session, held, {"late": True}),
    "fail": lambda session, held: attempts.fail(session, held, "late", code="late"),
    "stop": attempts.stop,
    "try later": lambda session, held: attempts.try_later(
        session, held, "late", code="late", wait_seconds=0
    ),
    "give back": lambda session, held: attempts.give_back(
        session, held, "late", note="late", charged=False
    ),
    "lose": lambda session, held: attempts.lose(session, held, "late"),
}


@on_both
@pytest.mark.parametrize("late_write", LATE_WRITES)
def test_a_late_writer_changes_nothing(app: Flask, late_write: str) -> None:
    job, late = running()
    in_transaction(attempts.give_back, late, "lost", note="no heartbeat", charged=True)
    current = claimed()
    before = snapshot(job)

    assert not in_transaction(LATE_WRITES[late_write], late)

    assert snapshot(job) == before
    assert in_transaction(attempts.hold, current)


@on_both
@pytest.mark.parametrize("late_write", LATE_WRITES)
def test_after_the_end_the_same_attempt_changes_nothing_more(app: Flask, late_write: str) -> None:
    job, held = running()
    in_transaction(attempts.finish, held, {"text": "done"})
    before = snapshot(job)

    assert not in_transaction(LATE_WRITES[late_write], held)

    assert snapshot(job) == before


def snapshot(job: Job) -> tuple[Any, ...]:
    db.session.commit()
    row = db.session.execute(text("SELECT * FROM jobs WHERE id = :id"), {"id": _key(job)}).one()
    events = db.session.execute(select(JobEvent.id, JobEvent.state)).all()
    runs = db.session.execute(select(Attempt.number, Attempt.outcome, Attempt.ended_at)).all()
    return (tuple(row), tuple(events), tuple(runs))


def _key(job: Job) -> object:
    return job.id.hex if db.engine.dialect.name == "sqlite" else job.id


# ---------------------------------------------------------------- progress


@on_both
def test_percent_never_falls_and_the_rest_is_the_newest(app: Flask) -> None:
    job, held = running()
    for percent in (10.0, 40.0, 20.0):
        in_transaction(attempts.report, held, shown(percent, f"at {percent:g}"))

    assert (now(job).percent, now(job).message) == (40.0, "at 20")


@on_both
def test_percent_does_not_fall_when_the_next_attempt_begins_anew(app: Flask) -> None:
    job, held = running()
    in_transaction(attempts.report, held, shown(60))
    in_transaction(attempts.give_back, held, "lost", note="gone", charged=True)
    in_transaction(attempts.report, claimed(), shown(5))

    assert now(job).percent == 60


@on_both
def test_every_change_that_a_watcher_can_see_is_a_version(app: Flask) -> None:
    job, held = running()
    before = now(job).version
    in_transaction(attempts.renew, held, 60)
    assert now(job).version == before
    in_transaction(attempts.report, held, shown(1))
    assert now(job).version == before + 1


# ---------------------------------------------------------------- the end of an attempt


@on_both
def test_a_lost_attempt_runs_again_until_none_is_left(app: Flask) -> None:
    job, held = running()
    for _ in range(2):
        in_transaction(attempts.lose, held, "The worker was lost")
        assert now(job).state == "queued"
        held = claimed()
    in_transaction(attempts.lose, held, "The worker was lost")

    assert (now(job).state, now(job).error_code) == ("failed", "poison")
    assert "attempt 3" in str(now(job).error)


@on_both
def test_what_a_deploy_hands_back_is_not_charged(app: Flask) -> None:
    job = submitted(probes.once)
    for _ in range(5):
        in_transaction(attempts.give_back, claimed(), "handed_back", note="deploy", charged=False)

    assert (now(job).state, now(job).attempt, now(job).uncharged) == ("queued", 5, 5)
    in_transaction(attempts.lose, claimed(), "The worker was lost")
    assert now(job).error_code == "poison"


ENDS_OF_A_JOB_ASKED_TO_STOP: dict[str, Any] = {
    "lose": lambda session, held: attempts.lose(session, held, "lost"),
    "try later": LATE_WRITES["try later"],
    "give back": LATE_WRITES["give back"],
    "stop": attempts.stop,
}


@on_both
@pytest.mark.parametrize("end", ENDS_OF_A_JOB_ASKED_TO_STOP)
def test_a_job_that_is_asked_to_stop_does_not_run_again(app: Flask, end: str) -> None:
    job, held = running()
    in_transaction(ledger.cancel, now(job), by=OWNER)
    in_transaction(ENDS_OF_A_JOB_ASKED_TO_STOP[end], held)

    assert now(job).state == "cancelled"
    assert now(job).ended_at is not None


@on_both
def test_a_rescue_that_races_the_completion_leaves_one_end_or_a_clean_rerun(app: Flask) -> None:
    with transaction() as session:
        for _ in range(60):
            submit(session, probes.once, OWNER)
    with transaction() as session:
        held = [claim_one(session, slot_of(Queue.DEFAULT)) for _ in range(60)]

    told = race(
        app,
        [one for one in held if one],
        lambda session, claim: attempts.finish(session, claim, {}) is not None,
        lambda session, claim: attempts.lose(session, claim, "no heartbeat") is not None,
    )

    for claim, (finished, lost) in zip(held, told, strict=True):
        assert claim is not None
        assert finished != lost
        query = select(JobEvent.state).where(JobEvent.job_id == claim.job_id)
        ends = db.session.scalars(query.where(JobEvent.state.in_(ENDED))).all()
        assert ends == (["succeeded"] if finished else ["failed"])


@on_both
def test_what_a_failed_attempt_says_late_changes_nothing_of_the_next(app: Flask) -> None:
    """A batch whose closing step was lost is tried again, and asked to stop."""
    with transaction() as session:
        parent = submit_batch(session, probes.close, OWNER, probes.once, [("an item", {})])
    in_transaction(attempts.fail, claimed(), "It is broken.", code="broken")
    in_transaction(batches.release, parent.id)
    late = claimed()
    in_transaction(attempts.fail, late, "It was lost.", code="poison", outcome="lost")
    in_transaction(batches.retry, now(parent), probes.close, probes.once)
    claimed()
    in_transaction(batches.cancel, now(parent), by=OWNER)

    assert in_transaction(attempts.finish, late, {"late": True}) is None
    assert now(parent).state == "cancelling"


# ---------------------------------------------------------------- the order of queues


@on_both
def test_a_slot_serves_its_queues_in_their_order(app: Flask) -> None:
    plain, urgent = submitted(), submitted(probes.urgent)

    assert taken_from(Queue.HIGH, Queue.DEFAULT) == urgent.id
    assert taken_from(Queue.HIGH, Queue.DEFAULT) == plain.id
    assert taken_from(Queue.HIGH, Queue.DEFAULT) is None


@on_both
def test_what_is_overdue_at_the_level_that_is_asked_for_goes_first(app: Flask) -> None:
    for _ in range(2):
        submitted(probes.urgent)
    dear, cheap, cheapest = submitted(), submitted(), submitted()
    with transaction() as session:
        for job, priority in ((dear, 9), (cheap, 5), (cheapest, 1)):
            values = {"priority": priority, "run_at": db_now(-21.0)}
            session.execute(update(Job).where(Job.id == job.id).values(values))
    queues = (Queue.HIGH, Queue.DEFAULT)

    assert taken_from(*queues, aged=Level(Queue.DEFAULT, 5)) == cheap.id
    assert taken_from(*queues, aged=Level(Queue.DEFAULT, 5)) == cheapest.id
    # Nothing is overdue at that level any more: the order is the common one.
    assert taken_from(*queues, aged=Level(Queue.DEFAULT, 5)) not in {None, dear.id}
    assert taken_from(*queues, aged=Level(Queue.DEFAULT, 9)) == dear.id


@on_both
def test_an_owner_with_many_waiting_jobs_lets_another_go_first(app: Flask) -> None:
    many = [submitted().id for _ in range(5)]
    assert claimed().job_id == many[0]
    other = in_transaction(submit, probes.echo, STRANGER, text="x").id

    assert [claimed().job_id for _ in range(5)] == [other, *many[1:]]


@on_both
@pytest.mark.parametrize(
    ("scope", "name"),
    [
        (PauseScope.QUEUE, Queue.DEFAULT),
        (PauseScope.KIND, probes.echo.name),
        (PauseScope.WORKER, "w@test"),
    ],
)
def test_what_is_paused_is_not_taken_until_it_is_resumed(
    app: Flask, scope: PauseScope, name: str
) -> None:
    job = submitted()
    with transaction() as session:
        session.add(Pause(scope=scope, name=name, paused_at=db_now()))
    assert in_transaction(claim) is None
    if scope is not PauseScope.WORKER:
        assert in_transaction(claim_one, slot_of(Queue.DEFAULT, name="other@test/1")) is None
    with transaction() as session:
        session.execute(delete(Pause))

    assert claimed().job_id == job.id


def taken_from(*queues: Queue, aged: Level | None = None) -> UUID | None:
    held = in_transaction(claim_one, slot_of(*queues), aged=aged)
    return held.job_id if held else None


# ---------------------------------------------------------------- rescue


@on_both
def test_an_expired_lease_is_rescued_and_a_renewed_one_is_not(app: Flask) -> None:
    job, held = running()
    assert steward.rescue() == 0
    let_lease_expire(job)
    in_transaction(attempts.renew, held, 60)
    assert steward.rescue() == 0
    let_lease_expire(job)
    assert steward.rescue() == 1

    assert now(job).state == "queued"
    assert in_transaction(attempts.renew, held, 60) is None


@on_both
def test_stewards_at_once_rescue_a_job_once(app: Flask) -> None:
    job, _ = running()
    let_lease_expire(job)

    assert sum(beside(app, *[steward.rescue] * 4)) == 1
    assert now(job).attempt == 1


def test_the_fence_of_a_row_is_that_of_the_claim(app: Flask) -> None:
    job, held = running()
    assert attempts.fence_of(now(job)) == Fence(
        job_id=held.job_id, token=held.token, attempt=held.attempt
    )


def test_a_row_that_was_never_claimed_has_no_fence(app: Flask) -> None:
    with pytest.raises(ValueError, match="held by no attempt"):
        attempts.fence_of(submitted())


@on_both
def test_a_foreign_token_holds_nothing(app: Flask) -> None:
    _, held = running()
    forged = replace(held, token=uuid4())

    assert not in_transaction(attempts.hold, forged)
    assert in_transaction(attempts.finish, forged, {}) is None
