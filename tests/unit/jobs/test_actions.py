"""Many jobs at once, as their owner asks."""

from uuid import uuid4

from flask import Flask

from backend.jobs import actions, attempts
from tests.unit.jobs.conftest import OWNER, STRANGER, claimed, in_transaction, now, submitted


def test_what_is_not_possible_is_told_and_the_rest_is_done(app: Flask) -> None:
    job = submitted()
    held = claimed()
    in_transaction(attempts.finish, held, {})
    ended, active, unknown = job.id, submitted().id, uuid4()
    ids = [ended, active, unknown, ended]
    answer = actions.act_on_each(OWNER, "delete", ids, force=False)

    assert answer["done"] == 1
    problems = {problem["job_id"]: problem["error"] for problem in answer["problems"]}
    assert "cancel it first" in problems[active]
    assert problems[unknown] == f"There is no job {unknown}."


def test_anothers_jobs_are_not_there(app: Flask) -> None:
    job = submitted()
    answer = actions.act_on_each(STRANGER, "cancel", [job.id], force=True)

    assert answer["problems"] == [{"job_id": job.id, "error": f"There is no job {job.id}."}]
    assert now(job).state == "queued"
