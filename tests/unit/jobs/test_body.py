"""The process that takes job after job: what it keeps, what it passes on, and when it ends."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from backend.db import db, transaction
from backend.jobs import (
    JobContext,
    Retry,
    actions,
    attempts,
    batches,
    job,
    ledger,
    runner,
    submit,
    submit_batch,
)
from backend.jobs.attempts import Lease
from backend.jobs.body import MOST_AT_ONCE, MOST_ATTEMPTS, NOT_RECORDED, RETIRED, Body
from backend.jobs.claims import Claim
from backend.jobs.kinds import JobKind, Kinds
from backend.jobs.models import Job
from backend.jobs.runner import Watch, Watched
from tests.unit.jobs import probes
from tests.unit.jobs.attempting import outcomes, run_all, wait_for
from tests.unit.jobs.conftest import OWNER, STRANGER, Do, now, on_both, submitted


def test_short_jobs_run_in_one_process_that_is_not_the_slots(app: Flask, submit_body: Do) -> None:
    jobs = [submit_body(lambda ctx: {"pid": os.getpid()}) for _ in range(40)]

    assert run_all() == 40
    pids = {now(each).result["pid"] for each in jobs}  # type: ignore[index]
    assert len(pids) == 1
    assert pids != {os.getpid()}


@on_both
def test_a_job_that_closes_what_it_did_not_open_succeeds_all_the_same(
    app: Flask, submit_body: Do
) -> None:
    def work(ctx: JobContext) -> dict[str, Any]:
        os.closerange(3, 256)
        return {"ok": True}

    jobs = [submit_body(work) for _ in range(3)]
    run_all()

    assert [now(each).result for each in jobs] == [{"ok": True}] * 3
    assert [outcomes(each) for each in jobs] == [["succeeded"]] * 3


def leave_a_thread() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def leave_a_file() -> None:
    os.open("/dev/null", os.O_RDONLY)


def leave_a_process() -> None:
    subprocess.Popen(["sleep", "1000"])


def leave_an_orphan() -> None:
    subprocess.run(["sh", "-c", "setsid sleep 1000 > /dev/null 2>&1 &"], check=True)


def leave_for_elsewhere() -> None:
    os.chdir("/")


@pytest.mark.parametrize(
    "leave",
    [leave_a_thread, leave_a_file, leave_a_process, leave_an_orphan, leave_for_elsewhere],
)
def test_after_a_job_that_leaves_something_behind_the_next_has_a_fresh_process(
    app: Flask, submit_body: Do, leave: Callable[[], None]
) -> None:
    def work(ctx: JobContext) -> dict[str, Any]:
        leave()
        return {"pid": os.getpid()}

    first, second = submit_body(work), submit_body(work)

    assert run_all() == 2
    assert now(first).result != now(second).result


def sized(folder: Path) -> JobKind[..., Any]:
    """A kind whose `text` says how it runs: short, long, which waits for a file `go`, or dying."""

    @job("probe.sized", params=probes.EchoParams)
    def run(ctx: JobContext, *, text: str = "short") -> dict[str, Any]:
        if text == "long" and not (folder / "go").exists():
            (folder / "begun").touch()
            wait_for((folder / "go").exists, "it may go on")
        if text == "dying" and ctx.attempt == 1:
            os._exit(9)
        return {"text": text, "attempt": ctx.attempt}

    return run


# The process claims one job, then two, then eight: the sixth is amid those eight.
AMID = 5
CLAIMED_WITH_IT = slice(AMID + 1, 11)


@pytest.fixture
def sixteen(app: Flask, tmp_path: Path) -> Callable[[str], list[Job]]:
    """Submit fifteen short jobs and, as the sixth, another."""

    def submit_all(sixth: str) -> list[Job]:
        kind = sized(tmp_path)
        app.extensions["sluice.kinds"] = Kinds((*probes.KINDS, kind))
        return [submitted(kind, text=sixth if n == AMID else "short") for n in range(16)]

    return submit_all


@on_both
def test_jobs_that_are_claimed_together_each_have_their_own_end(
    sixteen: Callable[[str], list[Job]],
) -> None:
    jobs = sixteen("other")

    assert run_all() == 16
    texts = [now(each).result["text"] for each in jobs]  # type: ignore[index]
    assert texts == ["other" if n == AMID else "short" for n in range(16)]
    assert {each.state for each in map(now, jobs)} == {"succeeded"}
    assert [outcomes(each) for each in jobs] == [["succeeded"]] * 16


@on_both
def test_a_long_job_holds_up_none_that_were_claimed_with_it(
    app: Flask, sixteen: Callable[[str], list[Job]], tmp_path: Path
) -> None:
    jobs = sixteen("long")

    def look() -> None:
        wait_for((tmp_path / "begun").exists, "the long one has begun")
        with app.app_context():
            wanted = ["succeeded"] * AMID + ["running"] + ["queued"] * (15 - AMID)
            done = "what is done is recorded, and the rest given back"
            wait_for(lambda: [now(each).state for each in jobs] == wanted, done)
        (tmp_path / "go").touch()

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        run_all()
        looking.result()

    assert {each.state for each in map(now, jobs)} == {"succeeded"}
    assert outcomes(jobs[AMID]) == ["succeeded"]
    for each in jobs[CLAIMED_WITH_IT]:
        assert outcomes(each) == ["handed_back", "succeeded"]
        assert now(each).uncharged == 1


@on_both
def test_a_job_that_kills_its_process_costs_its_neighbours_no_attempt(
    sixteen: Callable[[str], list[Job]],
) -> None:
    jobs = sixteen("dying")
    run_all()

    assert {each.state for each in map(now, jobs)} == {"succeeded"}
    assert [outcomes(each) for each in jobs[:AMID]] == [["succeeded"]] * AMID
    assert outcomes(jobs[AMID]) == ["lost", "succeeded"]
    for each in map(now, jobs[AMID + 1 :]):
        assert each.attempt - each.uncharged == 1


def test_of_an_owner_with_many_jobs_no_more_than_a_few_go_before_anothers(app: Flask) -> None:
    for _ in range(100):
        submitted()
    run_all(most=40)
    with transaction() as session:
        other = submit(session, probes.echo, STRANGER, text="x")
    run_all(most=MOST_AT_ONCE)

    assert now(other).state == "succeeded"


@on_both
def test_a_batch_of_short_children_is_closed_once(app: Flask) -> None:
    with transaction() as session:
        children = [(f"item {number}", {"text": str(number)}) for number in range(50)]
        parent = submit_batch(session, probes.close, OWNER, probes.echo, children)
    run_all()

    assert (now(parent).state, now(parent).items_done) == ("succeeded", 50)
    assert now(parent).result == {"closed": 1}
    db.session.commit()


def naps(app: Flask) -> JobKind[..., Any]:
    """A kind that sleeps for as many seconds as its `text` says, with one attempt."""

    @job("probe.nap", params=probes.EchoParams, retry=Retry(attempts=1))
    def nap(ctx: JobContext, *, text: str = "0") -> dict[str, Any]:
        time.sleep(float(text))
        return {}

    app.extensions["sluice.kinds"] = Kinds((*probes.KINDS, nap))
    return nap


@on_both
def test_what_is_claimed_as_a_long_child_ends_is_run(app: Flask) -> None:
    nap = naps(app)
    submitted(nap, text="0")
    with transaction() as session:
        children = [("short", {"text": "0"}), ("long", {"text": "0.8"})]
        parent = submit_batch(session, probes.close, OWNER, nap, children)
    run_all()

    assert now(parent).state == "succeeded"
    assert outcomes(parent) == ["succeeded"]


def test_a_kill_that_comes_too_late_is_not_the_next_jobs(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    nap = naps(app)
    first, second = submitted(nap, text="0.8"), submitted(nap, text="0.8")
    heed = Watch._heed

    def heed_late(watch: Watch, watched: Watched, lease: Lease | None) -> None:
        if lease is not None and lease.force:
            wait_for(lambda: now(first).ended, "the one that it is for has ended")
        heed(watch, watched, lease)

    monkeypatch.setattr(Watch, "_heed", heed_late)
    monkeypatch.setattr(runner, "LOOK_PAUSE", 0.1)

    def cancel() -> None:
        with app.app_context():
            wait_for(lambda: now(first).state == "running", "it runs")
            with transaction() as session:
                ledger.cancel(session, now(first), by=OWNER, force=True)

    with ThreadPoolExecutor(1) as pool:
        cancelling = pool.submit(cancel)
        run_all()
        cancelling.result()

    assert (now(second).state, now(second).error) == ("succeeded", None)


@pytest.mark.parametrize("code", [RETIRED, NOT_RECORDED])
def test_a_function_that_ends_its_process_comes_to_an_end_whatever_its_code(
    app: Flask, submit_body: Do, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(attempts, "MOST_UNCHARGED", 3)
    job = submit_body(lambda ctx: os._exit(code), retry=Retry(attempts=1))
    run_all()

    assert (now(job).state, now(job).error_code) == ("failed", "poison")


def test_a_process_that_stands_still_between_two_attempts_is_replaced(
    app: Flask, submit_body: Do, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = (submit_body(lambda ctx: {"pid": os.getpid()}) for _ in range(2))
    look, stood = Body._next, tmp_path / "stood"

    def stand_still(body: Body) -> Claim | None:
        if body.left < MOST_ATTEMPTS and not stood.exists():
            stood.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return look(body)

    monkeypatch.setattr(Body, "_next", stand_still)
    app.config["SLUICE"] = app.config["SLUICE"].model_copy(update={"lease_seconds": 0.5})
    assert run_all() + run_all() == 2

    assert [now(each).state for each in (first, second)] == ["succeeded", "succeeded"]
    assert now(first).result != now(second).result


def test_a_batch_that_is_tried_again_lets_others_go_first(app: Flask) -> None:
    with transaction() as session:
        children = [(f"item {number}", {"text": "x"}) for number in range(60)]
        parent = submit_batch(session, probes.close, OWNER, probes.echo, children)
    with transaction() as session:
        batches.cancel(session, now(parent), by=OWNER)
    with transaction() as session:
        actions.retry(session, now(parent))
    with transaction() as session:
        other = submit(session, probes.echo, STRANGER, text="x")
    run_all(most=MOST_AT_ONCE)

    assert now(other).state == "succeeded"


@on_both
def test_a_closing_step_that_counts_its_own_does_not_change_how_large_its_batch_is(
    app: Flask,
) -> None:
    @job("probe.count", params=probes.NoParams, stages={"work": 4, "close": 1})
    def count(ctx: JobContext) -> dict[str, Any]:
        ctx.report("halfway", 0.5, "close", 1, 2)
        time.sleep(0.6)  # it is shown four times a second
        return {}

    app.extensions["sluice.kinds"] = Kinds((*probes.KINDS, count))
    with transaction() as session:
        children = [(f"item {number}", {"text": "x"}) for number in range(5)]
        parent = submit_batch(session, count, OWNER, probes.echo, children)
    run_all()

    assert (now(parent).state, now(parent).stage) == ("succeeded", "close")
    assert (now(parent).items_done, now(parent).items_total) == (5, 5)
