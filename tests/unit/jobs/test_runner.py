"""One attempt, from the claim to the moment that nothing of it is left."""

import ctypes
import faulthandler
import os
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from marshmallow import Schema, fields, validate
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend.accounts.models import User
from backend.clock import utc_now
from backend.db import db, transaction
from backend.errors import InvalidInput, Unavailable
from backend.jobs import (
    JobContext,
    Retry,
    artifacts,
    attempts,
    batches,
    ledger,
    listener,
    runner,
    submit_batch,
)
from backend.jobs.context import Published
from backend.jobs.kinds import Kinds
from backend.jobs.models import Artifact, Job, JobEvent
from backend.jobs.outcomes import LONGEST_LINE, MOST_CHECKPOINT_BYTES
from backend.jobs.runner import Watch
from tests.unit.jobs import probes
from tests.unit.jobs.attempting import (
    WORKER,
    attempts_of,
    is_alive,
    logged,
    meanwhile,
    outcomes,
    run_next,
    wait_for,
)
from tests.unit.jobs.conftest import OWNER, Do, now, on_both, submitted

SLEEP = ["sleep", "1000"]


@pytest.fixture
def own_settings() -> dict[str, Any]:
    return {"lease_seconds": 3, "heartbeat_seconds": 0.3, "cancel_grace_seconds": 0.5}


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK_PAUSE", 0.1)


def cancelling(job: Job, *, force: bool = False) -> Callable[[Session], object]:
    return lambda session: batches.cancel(
        session, session.get_one(Job, job.id), by=OWNER, force=force
    )


def sleep_on(sign: Path) -> None:
    """Give the sign, and then heed nothing."""
    sign.touch()
    while True:
        time.sleep(0.05)


# ---------------------------------------------------------------- it ends well


@on_both
def test_an_attempt_that_returns_leaves_its_result(do: Do) -> None:
    job = do(lambda ctx: {"owner": ctx.owner_id, "attempt": ctx.attempt})

    assert (job.state, job.percent) == ("succeeded", 100)
    assert job.result == {"owner": OWNER, "attempt": 1}
    (attempt,) = attempts_of(job)
    assert (attempt.outcome, attempt.worker) == ("succeeded", WORKER)


def test_without_a_ready_job_there_is_nothing_to_do(app: Flask) -> None:
    assert run_next() == 0


def test_an_attempt_works_in_a_folder_that_is_its_owners_alone_and_gone_at_the_end(
    do: Do, tmp_path: Path
) -> None:
    def work(ctx: JobContext) -> dict[str, object]:
        (ctx.workspace / "scratch").write_bytes(b"x")
        return {"workspace": str(ctx.workspace), "mode": ctx.workspace.stat().st_mode & 0o777}

    job = do(work)

    assert job.result is not None
    assert job.result["mode"] == 0o700
    assert Path(job.result["workspace"]).is_relative_to(tmp_path)
    assert not Path(job.result["workspace"]).exists()


@pytest.fixture
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record artifacts without their content.

    The blob store's threads do not survive a fork, and other tests have used it in this process.
    """

    def keep(owner_id: int, file: Published) -> Callable[[Session, UUID], None]:
        size, made = file.path.stat().st_size, utc_now()
        row = {"name": file.name, "media_type": file.media_type, "size_bytes": size}
        return lambda session, job_id: session.add(Artifact(job_id=job_id, created_at=made, **row))

    monkeypatch.setattr(artifacts, "keep", keep)


@pytest.mark.usefixtures("no_store")
def test_artifacts_and_effects_are_there_with_the_finish(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        (ctx.workspace / "sum.txt").write_text("42")
        ctx.publish(ctx.workspace / "sum.txt", "sum.txt", "text/plain")
        ctx.at_finish(lambda session: _rename_owner(session, "eve@example.org"))

    job = do(work)

    assert [(made.name, made.size_bytes) for made in job.artifacts] == [("sum.txt", 2)]
    assert db.session.get_one(User, OWNER).email == "eve@example.org"


def _rename_owner(session: Session, email: str) -> None:
    session.execute(update(User).where(User.id == OWNER).values(email=email))


@pytest.mark.usefixtures("no_store")
def test_an_effect_that_raises_takes_the_artifacts_and_the_other_effects_with_it(do: Do) -> None:
    def refuse(session: Session) -> None:
        raise InvalidInput("The plan is used up.", code="no_plan")

    def work(ctx: JobContext) -> None:
        (ctx.workspace / "sum.txt").write_text("42")
        ctx.publish(ctx.workspace / "sum.txt", "sum.txt", "text/plain")
        ctx.at_finish(lambda session: _rename_owner(session, "eve@example.org"))
        ctx.at_finish(refuse)

    job = do(work)

    assert (job.state, job.error, job.error_code) == ("failed", "The plan is used up.", "no_plan")
    assert job.artifacts == []
    assert db.session.get_one(User, OWNER).email == "ann@example.org"


@on_both
def test_a_result_that_is_no_json_fails_the_job(do: Do) -> None:
    job = do(lambda ctx: {"result": object()})

    assert (job.state, job.error_code) == ("failed", "internal")


class PagesResult(Schema):
    pages = fields.Integer(required=True, validate=validate.Range(1))


@pytest.mark.parametrize("result", [{"pages": 0}, {"sheets": 3}])
def test_a_result_that_is_not_what_its_schema_says_fails_with_the_field(
    do: Do, result: dict[str, int]
) -> None:
    job = do(lambda ctx: result, result=PagesResult)

    assert (job.state, job.error_code, job.result) == ("failed", "invalid_result", None)
    assert "pages" in str(job.error)


@on_both
def test_a_result_with_a_number_that_json_does_not_have_fails_the_job(do: Do) -> None:
    job = do(lambda ctx: {"mean": float("nan")})

    assert (job.state, job.error_code) == ("failed", "internal")


def test_a_checkpoint_that_is_too_large_is_refused_with_its_limit(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        ctx.checkpoint({"page": 7})
        ctx.checkpoint({"pages": "x" * 100_000_000})

    job = do(work)

    assert (job.state, job.error_code) == ("failed", "checkpoint_too_large")
    assert str(MOST_CHECKPOINT_BYTES) in str(job.error)
    assert job.checkpoint == {"page": 7}


# ---------------------------------------------------------------- it fails


def test_an_error_for_people_fails_the_job_with_its_sentence(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        raise InvalidInput("page 3 has no text", code="no_text")

    job = do(work)

    assert (job.state, job.error, job.error_code) == ("failed", "page 3 has no text", "no_text")
    assert outcomes(job) == ["failed"]


def test_an_unexpected_error_is_logged_and_its_words_stay_inside(
    do: Do, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(ctx: JobContext) -> None:
        raise KeyError("/srv/secrets: password is hunter2")

    job = do(work)

    assert job.state == "failed"
    assert "hunter2" not in f"{job.error} {attempts_of(job)[0].error}"
    assert "KeyError" in str(job.error)


def test_an_error_in_the_functions_own_transaction_is_recorded_as_the_failure(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        db.session.add(User(id=OWNER, email="twice@example.org", password_hash="-"))
        db.session.flush()

    job = do(work)

    assert (job.state, job.error_code) == ("failed", "internal")
    assert "IntegrityError" in str(job.error)


def test_a_full_disk_is_named(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        raise OSError(28, "No space left on device", "/srv/data/x")

    job = do(work)

    assert job.error_code == "disk_full"
    assert "/srv" not in str(job.error)


@on_both
def test_what_may_help_later_is_tried_again_after_its_wait(do: Do) -> None:
    def work(ctx: JobContext) -> dict[str, int]:
        if ctx.attempt == 1:
            raise Unavailable("The mail server is away.")
        return {"attempt": ctx.attempt}

    job = do(work, retry=Retry(attempts=2, delay=1000))
    assert (job.state, job.error) == ("retrying", "The mail server is away.")
    wait = (job.run_at - attempts_of(job)[0].ended_at).total_seconds()  # type: ignore[operator]
    assert 500 <= wait <= 1001
    assert run_next() == 0

    with transaction() as session:
        session.execute(update(Job).values(run_at=Job.created_at))
    assert run_next() == 1
    assert (now(job).result, now(job).error) == ({"attempt": 2}, None)


def test_the_last_attempts_error_is_the_jobs(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        raise Unavailable(f"away at attempt {ctx.attempt}")

    job = do(work, retry=Retry(attempts=2, delay=0))
    assert run_next() == 1

    assert (now(job).state, now(job).error) == ("failed", "away at attempt 2")
    assert run_next() == 0


def test_waits_begin_anew_when_a_person_tries_again(app: Flask, do: Do) -> None:
    def work(ctx: JobContext) -> None:
        raise Unavailable("away")

    job = do(work, retry=Retry(attempts=4, delay=0))
    for _ in range(3):
        run_next()
    assert now(job).state == "failed"
    kind = probes.kind_of(work, retry=Retry(attempts=4, delay=100))
    app.extensions["sluice.kinds"] = Kinds((kind,))
    with transaction() as session:
        ledger.retry(session, session.get_one(Job, job.id), kind)
    run_next()

    wait = (now(job).run_at - attempts_of(job)[-1].ended_at).total_seconds()  # type: ignore[operator]
    assert wait <= 101


def test_parameters_that_no_longer_fit_fail_the_job_with_the_reason(app: Flask) -> None:
    job = submitted(probes.echo)
    with transaction() as session:
        session.execute(update(Job).values(params={"text": [1, 2]}))
    run_next()

    assert now(job).error_code == "invalid_params"
    assert "text" in str(now(job).error)


def test_a_kind_that_is_gone_fails_the_job_with_the_reason(app: Flask) -> None:
    job = submitted(probes.echo)
    app.extensions["sluice.kinds"] = Kinds(())
    run_next()

    assert now(job).error_code == "unknown_kind"
    assert "probe.echo" in str(now(job).error)


# ---------------------------------------------------------------- it takes too long


def test_the_soft_limit_is_not_swallowed_by_a_broad_except(do: Do) -> None:
    def work(ctx: JobContext) -> dict[str, bool]:
        try:
            time.sleep(30)
        except Exception:  # noqa: BLE001 - what is tested
            return {"swallowed": True}
        return {}

    job = do(work, soft_limit=timedelta(seconds=0.5), hard_limit=timedelta(seconds=20))

    assert (job.state, job.error_code) == ("failed", "time_limit")
    assert outcomes(job) == ["failed"]


def test_the_hard_limit_ends_what_heeds_nothing(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        while True:
            try:
                time.sleep(30)
            except BaseException:  # noqa: BLE001, S112 - what is tested
                continue

    job = do(work, soft_limit=timedelta(seconds=0.3), hard_limit=timedelta(seconds=0.8))

    assert (job.state, job.error_code) == ("failed", "time_limit")
    assert outcomes(job) == ["killed"]


# ---------------------------------------------------------------- it is cancelled


@on_both
def test_a_gentle_cancel_stops_at_the_next_item_and_keeps_what_is_done(
    app: Flask, submit_body: Do, tmp_path: Path
) -> None:
    def work(ctx: JobContext) -> None:
        for number in ctx.track("work", range(1000)):
            with ctx.transaction() as session:
                _rename_owner(session, f"ann{number}@example.org")
            (tmp_path / "begun").touch()
            time.sleep(0.02)

    job = submit_body(work)
    with meanwhile(app, tmp_path / "begun", cancelling(job)):
        run_next()

    assert now(job).state == "cancelled"
    assert outcomes(job) == ["cancelled"]
    assert now(job).cancel_requested_by == OWNER
    assert db.session.get_one(User, OWNER).email != "ann@example.org"


def test_a_cancel_that_is_not_heeded_kills_within_the_grace_with_all_that_was_started(
    app: Flask, submit_body: Do, tmp_path: Path
) -> None:
    def work(ctx: JobContext) -> None:
        children = [
            subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000"]),
            subprocess.Popen(SLEEP, start_new_session=True),
        ]
        (tmp_path / "pids").write_text(" ".join(str(child.pid) for child in children))
        sleep_on(tmp_path / "begun")

    job = submit_body(work)
    started = time.monotonic()
    with meanwhile(app, tmp_path / "begun", cancelling(job)):
        run_next()

    assert time.monotonic() - started < 5
    assert now(job).state == "cancelled"
    assert outcomes(job) == ["killed"]
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_for(lambda: not any(map(is_alive, pids)), "all that it started has ended")


def test_a_forced_cancel_kills_at_once(app: Flask, submit_body: Do, tmp_path: Path) -> None:
    app.config["SLUICE"] = app.config["SLUICE"].model_copy(update={"cancel_grace_seconds": 60})
    job = submit_body(lambda ctx: sleep_on(tmp_path / "begun"))
    started = time.monotonic()
    with meanwhile(app, tmp_path / "begun", cancelling(job, force=True)):
        run_next()

    assert time.monotonic() - started < 5
    assert (now(job).state, outcomes(job)) == ("cancelled", ["killed"])


def test_after_a_kill_the_same_slot_runs_the_next_job_unharmed(
    app: Flask, submit_body: Do, tmp_path: Path
) -> None:
    job = submit_body(lambda ctx: sleep_on(tmp_path / "begun"))
    neighbour = submitted(probes.echo)
    with meanwhile(app, tmp_path / "begun", cancelling(job, force=True)):
        run_next()
    run_next()

    assert now(neighbour).state == "succeeded"


def test_a_failure_after_a_cancel_is_not_tried_again(
    app: Flask, submit_body: Do, tmp_path: Path
) -> None:
    def work(ctx: JobContext) -> None:
        (tmp_path / "begun").touch()
        wait_for(lambda: ctx.reporter.stop_wanted, "it is asked to stop")
        raise Unavailable("The mail server is away.")

    job = submit_body(work)
    with meanwhile(app, tmp_path / "begun", cancelling(job)):
        run_next()

    assert now(job).state == "cancelled"


# ---------------------------------------------------------------- it dies


def segfault() -> None:
    faulthandler.disable()  # pytest's own, which would tell of it at length
    ctypes.string_at(0)


def abort() -> None:
    faulthandler.disable()
    os.abort()


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (segfault, "SIGSEGV"),
        (abort, "SIGABRT"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"),
        (lambda: os._exit(0), "exit code 0"),
        (lambda: os._exit(1), "exit code 1"),
    ],
    ids=["segfault", "abort", "kill -9", "exit 0", "exit 1"],
)
def test_a_death_without_a_word_is_a_lost_worker_and_runs_again(
    do: Do, death: Callable[[], None], words: str
) -> None:
    def work(ctx: JobContext) -> dict[str, int]:
        if ctx.attempt == 1:
            death()
        return {"attempt": ctx.attempt}

    job = do(work)
    assert job.state == "queued"
    (attempt,) = attempts_of(job)
    assert attempt.outcome == "lost"
    assert str(attempt.error).startswith("The worker was lost")
    assert words in str(attempt.error)

    run_next()
    assert now(job).result == {"attempt": 2}


@on_both
def test_a_poison_job_is_quarantined_after_its_attempts(do: Do) -> None:
    job = do(lambda ctx: abort(), retry=Retry(attempts=2))
    run_next()

    assert (now(job).state, now(job).error_code) == ("failed", "poison")
    assert outcomes(job) == ["lost", "lost"]
    assert run_next() == 0


def test_the_next_attempt_is_handed_the_checkpoint(do: Do) -> None:
    def work(ctx: JobContext) -> dict[str, Any]:
        if ctx.last_checkpoint is None:
            ctx.checkpoint({"page": 7})
            abort()
        return ctx.last_checkpoint

    job = do(work)
    run_next()

    assert now(job).result == {"page": 7}


def test_a_watch_that_fails_leaves_no_attempt_behind(
    submit_body: Do, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(ctx: JobContext) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        sleep_on(tmp_path / "begun")

    def fail(self: Watch) -> None:
        wait_for((tmp_path / "begun").exists, "it has begun")
        raise RuntimeError("the watch is broken")

    job = submit_body(work)
    monkeypatch.setattr(Watch, "_tend", fail)
    with pytest.raises(RuntimeError, match="the watch is broken"):
        run_next()

    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert now(job).state == "queued"


def test_an_attempt_whose_job_was_given_to_another_is_killed_and_changes_nothing(
    app: Flask, submit_body: Do, tmp_path: Path
) -> None:
    job = submit_body(lambda ctx: sleep_on(tmp_path / "begun"))

    def lose(session: Session) -> None:
        attempts.lose(session, attempts.fence_of(session.get_one(Job, job.id)), "no heartbeat")

    with meanwhile(app, tmp_path / "begun", lose):
        run_next()

    assert now(job).state == "queued"
    assert outcomes(job) == ["lost"]


@pytest.mark.parametrize("ending", runner.ENDINGS)
def test_a_deploy_hands_the_job_back_without_charging_it(
    app: Flask, submit_body: Do, tmp_path: Path, ending: signal.Signals
) -> None:
    def work(ctx: JobContext) -> None:
        ctx.checkpoint({"page": 3})
        sleep_on(tmp_path / "begun")

    told: list[int] = []
    before = signal.signal(ending, lambda number, _: told.append(number))
    try:
        job = submit_body(work, retry=Retry(attempts=1))
        with meanwhile(app, tmp_path / "begun", lambda _: os.kill(os.getpid(), ending)):
            run_next()
    finally:
        signal.signal(ending, before)

    assert told == [ending]
    assert (now(job).state, now(job).attempt, now(job).uncharged) == ("queued", 1, 1)
    assert now(job).checkpoint == {"page": 3}
    assert outcomes(job) == ["handed_back"]


# ---------------------------------------------------------------- what it says


@on_both
def test_progress_rises_and_is_written_at_most_four_times_a_second(do: Do) -> None:
    def work(ctx: JobContext) -> dict[str, int]:
        until, count = time.monotonic() + 1.6, 0
        while time.monotonic() < until:
            count += 1
            ctx.report(f"step {count}", count / 1_000_000)
        return {"count": count}

    job = do(work)

    assert job.result is not None
    assert job.result["count"] > 1000
    # The submit, the claim and the finish are versions too.
    assert 4 <= job.version - 3 <= 8


def test_log_lines_are_kept_in_their_order_up_to_the_last_word(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        for number in range(50):
            ctx.log(f"line {number}")
        ctx.log("the last word", level="warning")
        abort()

    job = do(work, retry=Retry(attempts=1))

    *lines, end = logged(job)
    assert lines == [*(f"line {number}" for number in range(50)), "the last word"]
    assert end == "The worker was lost: its process was ended by SIGABRT"


@on_both
def test_a_job_whose_database_goes_away_runs_again_and_is_not_charged(
    submit_body: Do, tmp_path: Path
) -> None:
    def work(ctx: JobContext) -> dict[str, int]:
        if ctx.attempt < 3:
            raise OperationalError("SELECT 1", {}, ConnectionError("the server has gone"))
        return {"attempt": ctx.attempt}

    job = submit_body(work, retry=Retry(attempts=1))
    for _ in range(3):
        run_next()

    assert outcomes(job) == ["interrupted", "interrupted", "succeeded"]
    assert (now(job).state, now(job).uncharged) == ("succeeded", 2)
    assert "The database was away" in logged(job)[0]


@on_both
def test_a_job_that_makes_the_database_give_up_each_time_comes_to_an_end(
    submit_body: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(ctx: JobContext) -> None:
        raise OperationalError("SELECT everything", {}, TimeoutError("statement timeout"))

    monkeypatch.setattr("backend.jobs.attempts.MOST_UNCHARGED", 1)
    job = submit_body(work, retry=Retry(attempts=1))
    for _ in range(3):
        run_next()

    assert outcomes(job) == ["interrupted", "lost"]
    assert (now(job).state, now(job).error_code) == ("failed", "poison")


@on_both
def test_a_huge_or_odd_line_is_cut_and_made_storable(do: Do) -> None:
    def work(ctx: JobContext) -> None:
        ctx.log("x" * 1_000_000)
        ctx.log("naïve \N{GRINNING FACE} \ud800 \0 end", level="a level that is none")
        ctx.report("naïve \N{GRINNING FACE} \ud800 \0 end" * 100, 0.5)
        time.sleep(0.6)

    job = do(work)

    assert job.state == "succeeded"
    assert logged(job) == ["x" * LONGEST_LINE, "naïve \N{GRINNING FACE} ? ? end"]


def test_a_flood_of_lines_is_kept_up_to_its_limit_and_stops_nothing(
    do: Do, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MOST_LINES", 100)

    def work(ctx: JobContext) -> dict[str, bool]:
        for number in range(5000):
            ctx.log(f"{number} " + "x" * 1500)
        return {"done": True}

    job = do(work)

    assert job.result == {"done": True}
    *lines, last = logged(job)
    assert [line.split()[0] for line in lines] == [str(number) for number in range(100)]
    assert last == "What it logs from here on is not kept."


# ---------------------------------------------------------------- batches


@on_both
def test_the_last_child_starts_the_closing_step_and_progress_never_falls(app: Flask) -> None:
    with transaction() as session:
        children = [(f"item {number}", {"text": str(number)}) for number in range(3)]
        parent = submit_batch(session, probes.close, OWNER, probes.echo, children)
    seen = [now(parent).percent]
    while run_next():
        seen.append(now(parent).percent)

    assert now(parent).state == "succeeded"
    assert now(parent).result == {"closed": 1}
    assert seen == sorted(seen)


def test_a_batch_shows_how_far_its_running_child_is(app: Flask, tmp_path: Path) -> None:
    def work(ctx: JobContext) -> None:
        ctx.report("half", 0.5)
        time.sleep(0.7)
        (tmp_path / "parent").touch()
        wait_for((tmp_path / "seen").exists, "the batch was looked at")

    each = probes.kind_of(work)
    app.extensions["sluice.kinds"] = Kinds((*probes.KINDS, each))
    with transaction() as session:
        parent = submit_batch(session, probes.close, OWNER, each, [("a", {}), ("b", {})])
    seen: list[float] = []

    def look(session: Session) -> None:
        seen.append(session.get_one(Job, parent.id, populate_existing=True).percent)
        (tmp_path / "seen").touch()

    with meanwhile(app, tmp_path / "parent", look):
        run_next()

    # Half of the first of two children, whose stage is four fifths of the bar.
    assert seen == [pytest.approx(0.25 * 80)]
    while run_next():
        pass


# ---------------------------------------------------------------- nothing leaks


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_whichever_way_attempts_end(
    app: Flask, submit_body: Do, tmp_path: Path
) -> None:
    def work(ctx: JobContext) -> None:
        (ctx.workspace / "scratch").touch()
        subprocess.Popen(SLEEP)
        ends: list[Callable[[], Any]] = [
            lambda: None,
            abort,
            lambda: os._exit(0),
            lambda: 1 / 0,
            lambda: (_ for _ in ()).throw(Unavailable("away")),
        ]
        ends[int((tmp_path / "end").read_text())]()

    def run_all() -> None:
        for number in range(5):
            (tmp_path / "end").write_text(str(number))
            submit_body(work, retry=Retry(attempts=1))
            run_next()
        db.session.remove()
        db.engine.dispose()

    run_all()
    before = open_files()
    run_all()

    assert open_files() == before
    assert list((tmp_path / "data" / "work" / "jobs").iterdir()) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_every_terminal_state_is_told_once(do: Do) -> None:
    job = do(lambda ctx: {})

    events = db.session.scalars(select(JobEvent.state).where(JobEvent.job_id == job.id)).all()
    assert list(events) == ["queued", "running", "succeeded"]
