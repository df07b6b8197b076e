"""What callers do to jobs, on both databases and against one another."""

from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from marshmallow import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db import db, transaction
from backend.errors import Conflict
from backend.jobs import Queue, attempts, ledger, submit
from backend.jobs.claims import Claim
from backend.jobs.models import Artifact, Attempt, Job, JobEvent, LogLine
from backend.jobs.states import ENDED
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import (
    OWNER,
    Bell,
    News,
    at_once,
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


def cancel(job: Job, *, force: bool = False) -> Job:
    found: Job = in_transaction(ledger.cancel, now(job), by=OWNER, force=force)
    return found


def failed(kind: Any = probes.echo) -> Job:
    job, held = running(kind)
    in_transaction(attempts.fail, held, "It broke.", code="broken")
    return now(job)


def events(job: Job) -> list[str]:
    db.session.commit()
    query = select(JobEvent.state).where(JobEvent.job_id == job.id).order_by(JobEvent.id)
    return list(db.session.scalars(query))


def endings(job_id: UUID) -> list[str]:
    query = select(JobEvent.state).where(JobEvent.job_id == job_id, JobEvent.state.in_(ENDED))
    return list(db.session.scalars(query))


# ---------------------------------------------------------------- submit


@on_both
def test_a_submitted_job_is_queued_rung_for_and_told_of(app: Flask, bell: Bell, news: News) -> None:
    job = submitted(probes.urgent)

    assert (now(job).state, now(job).queue, now(job).priority) == ("queued", Queue.HIGH, 10)
    assert events(job) == ["queued"]
    assert bell.rung == [(Queue.HIGH, job.id)]
    assert [(one["job_id"], one["owner_id"]) for one in news.told] == [(job.id.hex, OWNER)]


@on_both
def test_a_job_of_a_transaction_that_rolls_back_never_was(app: Flask, bell: Bell) -> None:
    def submit_and_fail(session: Session) -> None:
        submit(session, probes.echo, OWNER, text="x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        in_transaction(submit_and_fail)

    assert db.session.scalar(select(func.count()).select_from(Job)) == 0
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is None
    submitted()
    assert len(bell.rung) == 1


def test_the_bell_rings_only_once_the_row_is_there_for_others_to_see(
    app: Flask, bell: Bell
) -> None:
    with transaction() as session:
        submit(session, probes.echo, OWNER, text="x")
        assert bell.rung == []

    assert len(bell.rung) == 1


def test_parameters_that_are_not_as_declared_are_refused_at_the_submit(app: Flask) -> None:
    with pytest.raises(ValidationError, match="count"):
        in_transaction(submit, probes.items, OWNER)


# ---------------------------------------------------------------- cancel


@on_both
def test_a_queued_job_is_cancelled_at_once_and_never_runs(app: Flask) -> None:
    job = cancel(submitted())

    assert (job.state, job.cancel_requested_by) == ("cancelled", OWNER)
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is None


@on_both
def test_a_running_job_is_asked_first_gently_and_then_by_force(app: Flask) -> None:
    job, held = running()
    assert in_transaction(attempts.wishes, held) == attempts.Lease(cancelling=False, force=False)
    cancel(job)
    assert in_transaction(attempts.wishes, held) == attempts.Lease(cancelling=True, force=False)
    cancel(job, force=True)
    assert in_transaction(attempts.wishes, held) == attempts.Lease(cancelling=True, force=True)
    cancel(job)
    assert in_transaction(attempts.renew, held, 60).force


@on_both
def test_an_ended_job_stays_as_it_is_when_it_is_cancelled(app: Flask) -> None:
    job, held = running()
    in_transaction(attempts.finish, held, {"text": "done"})

    assert cancel(job).state == "succeeded"
    assert now(job).cancel_requested_at is None
    assert events(job) == ["queued", "running", "succeeded"]


@on_both
def test_of_a_cancel_and_a_finish_that_race_a_thousand_times_one_end_is_told_truly(
    app: Flask,
) -> None:
    held = many_running(1000)

    def finish_or_stop(session: Session, held: Claim) -> str:
        lease = attempts.wishes(session, held)
        stopping = lease is not None and lease.cancelling
        ended = attempts.stop(session, held) if stopping else attempts.finish(session, held, {})
        return ended.state if ended else "nothing"

    def ask(session: Session, held: Claim) -> str:
        return ledger.cancel(session, session.get_one(Job, held.job_id), by=OWNER).state

    told = race(app, held, finish_or_stop, ask)

    assert {answer for _, answer in told} <= {"succeeded", "cancelling"}
    for claim, (ended, answer) in zip(held, told, strict=True):
        assert endings(claim.job_id) == [ended]
        assert answer == "cancelling" or ended == "succeeded"


@on_both
def test_a_cancel_that_races_a_claim_either_prevents_it_or_reaches_the_attempt(app: Flask) -> None:
    with transaction() as session:
        jobs = [submit(session, probes.echo, OWNER, text="x") for _ in range(100)]

    told = race(
        app,
        jobs,
        lambda session, _: claim_one(session, slot_of(Queue.DEFAULT)),
        lambda session, job: ledger.cancel(session, session.get_one(Job, job.id), by=OWNER).state,
    )

    claims = {claim.job_id for claim, _ in told if claim}
    for job, (_, answer) in zip(jobs, told, strict=True):
        assert answer == ("cancelling" if now(job).attempt else "cancelled")
        assert (job.id in claims) == bool(now(job).attempt)


@on_both
def test_a_cancel_is_never_lost_to_a_retry_or_a_hand_back_of_the_same_moment(app: Flask) -> None:
    held = many_running(150)

    def let_go(session: Session, held: Claim) -> None:
        if held.job_id.int % 2:
            attempts.try_later(session, held, "away", code="unavailable", wait_seconds=0)
        else:
            attempts.give_back(session, held, "handed_back", note="a deploy", charged=False)

    race(
        app,
        held,
        let_go,
        lambda session, held: ledger.cancel(session, session.get_one(Job, held.job_id), by=OWNER),
    )

    assert {now(claim.job_id).state for claim in held} == {"cancelled"}
    assert all(endings(claim.job_id) == ["cancelled"] for claim in held)


def many_running(count: int) -> list[Claim]:
    with transaction() as session:
        for _ in range(count):
            submit(session, probes.echo, OWNER, text="x")
    with transaction() as session:
        held = [claim_one(session, slot_of(Queue.DEFAULT)) for _ in range(count)]
    return [claim for claim in held if claim]


# ---------------------------------------------------------------- retry


@on_both
def test_a_failed_job_is_queued_again_with_all_of_its_attempts(app: Flask, bell: Bell) -> None:
    job = failed()
    in_transaction(ledger.retry, job, probes.echo)

    assert (now(job).state, now(job).error, now(job).ended_at) == ("queued", None, None)
    assert bell.rung[-1] == (Queue.DEFAULT, job.id)
    assert claimed().attempts_left == probes.echo.retry.attempts - 1


@on_both
def test_of_retries_at_the_same_moment_one_makes_a_new_attempt(app: Flask) -> None:
    job = failed()

    def again(session: Session) -> Job:
        return ledger.retry(session, session.get_one(Job, job.id), probes.echo)

    answers = at_once(app, *[again] * 6)

    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 5
    assert events(job) == ["queued", "running", "failed", "queued"]


def test_a_job_that_runs_or_succeeded_is_not_tried_again(app: Flask) -> None:
    job, held = running()
    with pytest.raises(Conflict, match="This job is running"):
        in_transaction(ledger.retry, now(job), probes.echo)
    in_transaction(attempts.finish, held, {})
    with pytest.raises(Conflict, match="This job is succeeded"):
        in_transaction(ledger.retry, now(job), probes.echo)


# ---------------------------------------------------------------- delete


@on_both
@pytest.mark.parametrize("state", ["queued", "running", "cancelling"])
def test_an_active_job_is_not_deleted(app: Flask, state: str) -> None:
    job = submitted()
    if state != "queued":
        claimed()
    if state == "cancelling":
        cancel(job)

    with pytest.raises(Conflict, match=f"This job is {state}") as refusal:
        in_transaction(ledger.remove, now(job))

    assert refusal.value.code == "job_active"
    assert now(job).state == state


@on_both
def test_an_ended_job_goes_with_its_attempts_events_and_log(app: Flask) -> None:
    job, held = running()
    line = attempts.Line(at=now(job).created_at, level="info", message="hello")
    in_transaction(attempts.log_lines, held, [line])
    in_transaction(attempts.finish, held, {})
    in_transaction(ledger.remove, now(job))

    for table in (Job, Attempt, JobEvent, LogLine, Artifact):
        assert db.session.scalar(select(func.count()).select_from(table)) == 0


@on_both
def test_a_delete_that_races_a_retry_finds_it_ended_or_leaves_it(app: Flask) -> None:
    jobs = [failed() for _ in range(20)]

    def remove(session: Session, job: Job) -> bool:
        found = session.get(Job, job.id)
        try:
            if found:
                ledger.remove(session, found)
        except Conflict:
            return False
        return True

    def again(session: Session, job: Job) -> bool:
        found = session.get(Job, job.id)
        try:
            return found is not None and bool(ledger.retry(session, found, probes.echo))
        except Exception:  # noqa: BLE001 - deleted between the look and the retry
            return False

    for job, (removed, queued) in zip(jobs, race(app, jobs, remove, again), strict=True):
        assert removed != queued
        db.session.commit()
        left = db.session.get(Job, job.id, populate_existing=True)
        assert (left.state if left else "gone") == ("gone" if removed else "queued")
