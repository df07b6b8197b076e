"""`flask queues …`, as an operator types it."""

from flask import Flask

from backend.db import db
from backend.jobs import Queue, workers
from tests.unit.jobs.conftest import claim_one, in_transaction, slot_of, submitted


def run(app: Flask, *arguments: str) -> str:
    result = app.test_cli_runner().invoke(args=["queues", *arguments])
    assert result.exit_code == 0, result.output
    db.session.commit()
    return result.output


def test_a_paused_queue_hands_out_nothing_until_it_is_resumed(app: Flask) -> None:
    submitted()
    assert run(app, "pause", "default", "--reason", "moving house") == "default is paused.\n"
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is None
    assert run(app, "resume", "default") == "default is open.\n"
    assert in_transaction(claim_one, slot_of(Queue.DEFAULT)) is not None


def test_pausing_and_resuming_twice_changes_nothing_more(app: Flask) -> None:
    for _ in range(2):
        run(app, "pause", "default")
    for _ in range(2):
        run(app, "resume", "default")


def test_the_list_shows_each_queue_its_slots_and_its_pause(app: Flask) -> None:
    workers.report("default@one", ["high_priority", "default"], 2)
    run(app, "pause", "low_priority")
    high, default, low = run(app, "list").splitlines()

    assert high.split() == ["high_priority", "2", "slots", "open"]
    assert default.split() == ["default", "2", "slots", "open"]
    assert low.split()[:4] == ["low_priority", "0", "slots", "paused"]


def test_a_queue_that_does_not_exist_is_refused(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["queues", "pause", "none"])
    assert result.exit_code == 2
    assert "high_priority" in result.output
