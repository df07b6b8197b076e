"""Workers as they report themselves, and their dead slots."""

import os
import subprocess
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import update

from backend.db import db_now, transaction
from backend.jobs import Queue, pauses, processes, workers
from backend.jobs.acts import Actor
from backend.jobs.claims import Claim
from backend.jobs.models import PauseScope, Worker
from tests.unit.jobs.conftest import claim_one, in_transaction, now, on_both, slot_of, submitted


def dead_process() -> str:
    """What a process is called that has just ended."""
    process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    name = processes.identity(process.pid)
    process.communicate()
    return name


def claimed_by(slot: str) -> Claim:
    submitted()
    held: Claim | None = in_transaction(claim_one, slot_of(Queue.DEFAULT, name=slot))
    assert held is not None
    return held


@on_both
def test_a_worker_that_reports_is_seen_until_it_leaves(app: Flask) -> None:
    workers.report("default@one", ["high_priority", "default"], 2)
    workers.report("default@one", ["high_priority", "default"], 3)
    workers.report("low@one", ["low_priority"], 1)

    assert [worker.name for worker in workers.seen_within(60)] == ["default@one", "low@one"]
    assert workers.slots_of("default") == 3
    assert workers.slots_of("low_priority") == 1
    workers.leave("default@one")
    assert [worker.name for worker in workers.seen_within(60)] == ["low@one"]


def test_a_worker_that_is_silent_is_no_longer_seen(app: Flask) -> None:
    workers.report("default@one", ["default"], 2)
    with transaction() as session:
        session.execute(update(Worker).values(seen_at=db_now(-61)))

    assert workers.seen_within(60) == []
    assert workers.slots_of("default") == 0


@on_both
def test_a_worker_is_drained_for_as_long_as_its_pause_lasts(app: Flask) -> None:
    workers.report("default@one", ["default"], 2)
    operator = Actor(by="ann", via="command")
    assert not workers.is_drained("default@one")
    pauses.pause(operator, PauseScope.WORKER, "default@one")
    assert workers.is_drained("default@one")
    assert not workers.is_drained("default@two")
    pauses.resume(operator, PauseScope.WORKER, "default@one")
    assert not workers.is_drained("default@one")


@on_both
def test_a_dead_slots_job_is_given_up_and_a_live_ones_is_not(app: Flask) -> None:
    lost = claimed_by(f"default@one/{dead_process()}")
    held = claimed_by(workers.slot_name("default@one", os.getpid()))

    assert workers.bury_slots("default@one") == 1
    assert now(lost.job_id).state == "queued"
    assert now(held.job_id).state == "running"


def test_of_several_jobs_that_a_dead_slot_held_none_is_charged(app: Flask) -> None:
    slot = f"default@one/{dead_process()}"
    held = [claimed_by(slot) for _ in range(2)]

    assert workers.bury_slots("default@one") == 2
    for each in held:
        job = now(each.job_id)
        assert (job.state, job.attempt, job.uncharged) == ("queued", 1, 1)


def test_only_a_workers_own_slots_are_judged(app: Flask) -> None:
    others = claimed_by(f"default@two/{dead_process()}")
    underscore = claimed_by(f"defaultXone/{dead_process()}")

    assert workers.bury_slots("default@one") == 0
    assert workers.bury_slots("default_one") == 0
    assert now(others.job_id).state == now(underscore.job_id).state == "running"


def test_the_slots_of_a_namesake_elsewhere_are_not_taken_for_dead(app: Flask) -> None:
    pid, _, _ = dead_process().partition("-")
    held = claimed_by(f"default@one/{pid}-1234-another0")

    assert workers.bury_slots("default@one") == 0
    assert now(held.job_id).state == "running"


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(),
    reason="there is no /proc, which says when a process began",
)
def test_a_slot_is_dead_although_its_number_is_another_process_now(app: Flask) -> None:
    pid, began, place = processes.identity(os.getpid()).split("-")
    lost = claimed_by(f"default@one/{pid}-{int(began) - 1}-{place}")

    assert workers.bury_slots("default@one") == 1
    assert now(lost.job_id).state == "queued"
