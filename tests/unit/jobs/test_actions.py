"""Many jobs at once, as their owner asks."""

from uuid import uuid4

from flask import Flask

from backend.jobs import actions, attempts
from backend.jobs.queries import Filter
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import OWNER, STRANGER, claimed, in_transaction, now, submitted


def test_all_that_a_filter_matches_are_cancelled(app: Flask) -> None:
    jobs = [submitted() for _ in range(3)]
    other = submitted(probes.urgent)
    answer = actions.act_on_all(OWNER, "cancel", None, Filter(kind="probe.echo"), force=False)

    assert (answer["matched"], answer["done"], answer["problems"]) == (3, 3, [])
    assert {now(job).state for job in jobs} == {"cancelled"}
    assert now(other).state == "queued"


def test_what_is_not_possible_is_told_and_the_rest_is_done(app: Flask) -> None:
    job = submitted()
    held = claimed()
    in_transaction(attempts.finish, held, {})
    ended, active, unknown = job.id, submitted().id, uuid4()
    answer = actions.act_on_all(
        OWNER, "delete", [ended, active, unknown, ended], Filter(), force=False
    )

    assert answer["done"] == 1
    problems = {problem["job_id"]: problem["error"] for problem in answer["problems"]}
    assert "cancel it first" in problems[active]
    assert problems[unknown] == f"There is no job {unknown}."


def test_anothers_jobs_are_not_there(app: Flask) -> None:
    job = submitted()
    answer = actions.act_on_all(STRANGER, "cancel", [job.id], Filter(), force=True)

    assert answer["problems"] == [{"job_id": job.id, "error": f"There is no job {job.id}."}]
    assert now(job).state == "queued"


def test_failed_jobs_are_tried_again(app: Flask) -> None:
    job = submitted()
    in_transaction(attempts.fail, claimed(), "It broke.", code="broken")
    answer = actions.act_on_all(OWNER, "retry", None, Filter(state=["failed"]), force=False)

    assert answer["done"] == 1
    assert now(job).state == "queued"
