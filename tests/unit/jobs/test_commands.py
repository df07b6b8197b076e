"""`flask jobs …`, `queues …`, `kinds …` and `workers …`, as an operator types them."""

import getpass

from flask import Flask

from backend.db import db
from backend.jobs import Queue, attempts, claims, workers
from tests.unit.jobs.conftest import claim_one, in_transaction, now, slot_of, submitted


def run(app: Flask, *arguments: str, exit_code: int = 0) -> str:
    result = app.test_cli_runner().invoke(args=[*arguments])
    assert result.exit_code == exit_code, result.output
    db.session.commit()
    return result.output


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(app: Flask) -> None:
    submitted()
    assert (
        run(app, "queues", "pause", "default", "--reason", "moving house") == "default is paused.\n"
    )
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is None
    assert run(app, "queues", "resume", "default") == "default is open.\n"
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is not None


def test_pausing_and_resuming_twice_changes_nothing_more(app: Flask) -> None:
    for _ in range(2):
        run(app, "queues", "pause", "default")
    for _ in range(2):
        run(app, "queues", "resume", "default")


def test_the_list_shows_each_queue_its_slots_and_its_pause(app: Flask) -> None:
    workers.report("default@one", ["high_priority", "default"], 2)
    submitted()
    run(app, "queues", "pause", "low_priority", "--reason", "moving")
    high, default, low = run(app, "queues", "list").splitlines()

    assert high.split()[:4] == ["high_priority", "2", "slots", "open"]
    assert default.split()[:6] == ["default", "2", "slots", "open", "1", "ready"]
    assert low.split()[:4] == ["low_priority", "0", "slots", "paused"]
    assert "(moving)" in low


def test_a_kind_is_paused_and_resumed(app: Flask) -> None:
    submitted()
    run(app, "kinds", "pause", "probe.echo")
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is None
    assert "paused since" in run(app, "kinds", "list")
    run(app, "kinds", "resume", "probe.echo")
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is not None


def test_a_worker_is_drained_and_says_when_it_is_free(app: Flask) -> None:
    slot = claims.Slot("default@one/7", ("default",), 60)
    workers.report("default@one", ["default"], 1)
    submitted()
    held = in_transaction(claim_one, slot)
    said = run(app, "workers", "drain", "default@one")
    assert said == "default@one is drained, and still runs 1 jobs.\n"
    assert "default@one/7" in run(app, "workers", "list")
    in_transaction(attempts.finish, held, {})
    assert run(app, "workers", "drain", "default@one", "--wait").endswith("drained and free.\n")
    submitted()
    assert in_transaction(claim_one, slot) is None
    run(app, "workers", "undrain", "default@one")
    assert in_transaction(claim_one, slot) is not None


def test_a_name_that_does_not_exist_is_refused_with_those_that_do(app: Flask) -> None:
    workers.report("default@one", ["default"], 1)
    assert "high_priority" in run(app, "queues", "pause", "none", exit_code=2)
    assert "probe.echo" in run(app, "kinds", "pause", "none", exit_code=1)
    assert "default@one" in run(app, "workers", "drain", "none", exit_code=1)
    assert "probe.echo" in run(app, "jobs", "cancel", "--kind", "none", exit_code=1)
    assert "no@body.org" in run(app, "jobs", "list", "--owner", "no@body.org", exit_code=1)


def test_jobs_that_match_are_counted_and_then_cancelled(app: Flask) -> None:
    job = submitted()
    which = ("--kind", "probe.echo", "--owner", "ann@example.org")
    said = run(app, "jobs", "cancel", *which, "--dry-run")
    assert said == "1 jobs would be touched by cancel; nothing was changed.\n"
    assert now(job).state == "queued"
    assert run(app, "jobs", "cancel", *which) == "1 of 1 jobs: cancel.\n"
    assert now(job).state == "cancelled"
    assert "No job matches" in run(app, "jobs", "cancel", *which)
    assert run(app, "jobs", "retry", "--id", str(job.id)) == "1 of 1 jobs: retry.\n"
    assert now(job).state == "queued"


def test_an_act_on_all_jobs_must_be_asked_for(app: Flask) -> None:
    job = submitted()
    assert "--all" in run(app, "jobs", "cancel", exit_code=2)
    assert now(job).state == "queued"
    run(app, "jobs", "cancel", "--all")
    assert now(job).state == "cancelled"


def test_a_job_says_why_it_waits_and_the_list_shows_it(app: Flask) -> None:
    job = submitted()
    assert "No worker serves" in run(app, "jobs", "why", str(job.id))
    assert str(job.id) in run(app, "jobs", "list", "--state", "queued")
    assert run(app, "jobs", "list", "--before", "2020-01-01") == "No job matches.\n"
    assert "would read like" in run(app, "jobs", "list", "--since", "soon", exit_code=2)


def test_a_priority_is_changed_and_every_act_is_kept_with_who_typed_it(app: Flask) -> None:
    job = submitted()
    run(app, "jobs", "priority", "9", "--queue", "default")
    assert now(job).priority == 9
    assert "0<=x<=10" in run(app, "jobs", "priority", "11", "--all", exit_code=2)
    run(app, "queues", "pause", "default")
    last, first = run(app, "jobs", "acts").splitlines()
    assert getpass.getuser() in last
    assert "pause_queue [default] 1 of 1" in last
    assert "priority [queue=default priority=9] 1 of 1" in first
