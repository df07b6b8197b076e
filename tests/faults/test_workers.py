"""Workers that die, stand still, and are told to end; jobs that take their process along."""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from backend.jobs.models import Job
from backend.jobs.workers import REPORT_SECONDS
from tests.faults.bench import Bench, until
from tests.integration import probes
from tests.integration.stack import is_alive

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

Gate = Callable[..., UUID]
Begun = Callable[..., int]
Go = Callable[[], None]


def slot_of(job: Job) -> int:
    """The process that watches over a running job."""
    return int(str(job.worker).rpartition("/")[2].partition("-")[0])


def program_of(job: Job) -> str:
    return str(job.worker).partition("@")[0]


def outcomes(bench: Bench, job_id: UUID) -> list[str | None]:
    return [attempt.outcome for attempt in bench.attempts(job_id)]


def stand_by(bench: Bench) -> None:
    """Have another worker that takes nothing yet."""
    bench.start("spare")
    until(lambda: bench.has_reported("spare"), "the other worker is there", 40)
    bench.freeze("spare")


# ---------------------------------------------------------------- killed


@pytest.mark.row(1)
def test_a_killed_slot_is_a_lost_worker_and_its_job_runs_again_within_five_seconds(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    attempt_pid = begun()
    os.kill(slot_of(bench.job(job_id)), signal.SIGKILL)
    begun(2, seconds=5)
    assert not is_alive(attempt_pid)
    go()

    bench.assert_done_once(job_id)
    assert outcomes(bench, job_id) == ["lost", "succeeded"]
    assert "worker was lost" in str(bench.attempts(job_id)[0].error)


@pytest.mark.row(1)
def test_a_killed_attempt_is_a_lost_worker_and_its_slot_goes_on(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    pid, slot = begun(), slot_of(bench.job(job_id))
    os.kill(pid, signal.SIGKILL)
    begun(2, seconds=5)
    go()

    bench.assert_done_once(job_id)
    assert outcomes(bench, job_id) == ["lost", "succeeded"]
    assert "worker was lost" in str(bench.attempts(job_id)[0].error)
    assert is_alive(slot)


@pytest.mark.row(1)
def test_what_a_killed_attempt_had_started_ends_with_it(
    bench: Bench, gate: Gate, begun: Begun, signs: Path
) -> None:
    job_id = gate(probes.deaf)
    pid, program = begun(), int((signs / "program").read_text())
    os.kill(pid, signal.SIGKILL)
    begun(2, seconds=5)
    assert not is_alive(program)
    os.kill(int((signs / "program").read_text()), signal.SIGTERM)

    bench.assert_done_once(job_id)


@pytest.mark.row(1)
def test_what_a_killed_slots_attempt_had_started_ends_before_the_job_runs_again(
    bench: Bench, gate: Gate, begun: Begun, signs: Path
) -> None:
    job_id = gate(probes.deaf)
    begun()
    program = int((signs / "program").read_text())
    os.kill(slot_of(bench.job(job_id)), signal.SIGKILL)
    begun(2, seconds=5)
    assert not is_alive(program)
    os.kill(int((signs / "program").read_text()), signal.SIGTERM)

    bench.assert_done_once(job_id)


@pytest.mark.row(2)
def test_what_a_killed_workers_attempt_had_started_is_ended_by_another_worker(
    bench: Bench, gate: Gate, begun: Begun, signs: Path
) -> None:
    job_id = gate(probes.deaf)
    begun()
    program = int((signs / "program").read_text())
    bench.kill("default")
    until(lambda: not is_alive(program), "its program ends", REPORT_SECONDS + 2)
    bench.start("default")
    begun(2)
    os.kill(int((signs / "program").read_text()), signal.SIGTERM)

    bench.assert_done_once(job_id)


@pytest.mark.row(26)
def test_a_job_that_goes_on_starting_programs_leaves_none_and_its_slot_serves_on(
    bench: Bench,
) -> None:
    job_id = bench.submit(probes.launch)
    assert bench.wait_for(job_id, "failed").error_code == "poison"

    after = [bench.submit(probes.nap, seconds=0.2) for _ in range(4)]
    bench.assert_done_once(*after)


@pytest.mark.row(2)
@pytest.mark.named_times
def test_a_killed_workers_jobs_run_elsewhere_within_the_lease_and_five_seconds(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    stand_by(bench)
    job_id = gate()
    attempt_pid, job = begun(), bench.job(job_id)
    bench.thaw("spare")
    bench.kill("default")
    for pid in (attempt_pid, slot_of(job)):
        until(lambda pid=pid: not is_alive(pid), "its processes end with the worker", 3)
    begun(2, seconds=bench.lease + 5)
    go()

    bench.assert_done_once(job_id)
    assert outcomes(bench, job_id) == ["lost", "succeeded"]


@pytest.mark.row(2)
def test_a_killed_worker_that_is_started_again_gives_its_own_dead_jobs_up_at_once(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    begun()
    bench.kill("default")
    bench.start("default")
    until(lambda: bench.has_reported("default"), "the worker is back", 40)
    begun(2, seconds=5)
    go()

    bench.assert_done_once(job_id)


# ---------------------------------------------------------------- standing still


@pytest.mark.row(3)
def test_a_worker_that_stood_still_past_its_lease_changes_nothing_when_it_goes_on(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    late = begun()
    bench.freeze("default")
    bench.start("spare")
    begun(2, seconds=bench.lease + 10)
    go()
    bench.assert_done_once(job_id)
    # Its gate is open, so the first thing that the late attempt does is to finish.
    bench.thaw("default")
    until(lambda: not is_alive(late) or bench.job(job_id).attempt == 2, "the late one ends", 10)
    bench.assert_done_once(bench.submit(probes.nap, seconds=0.0))

    bench.assert_done_once(job_id)
    assert outcomes(bench, job_id) == ["lost", "succeeded"]
    assert bench.job(job_id).result == {"attempt": 2}


@pytest.mark.row(4)
def test_a_rescue_that_races_the_completion_leaves_one_end(bench: Bench, tmp_path: Path) -> None:
    """The thousands of interleavings are in tests/unit/jobs/test_attempts.py."""
    bench.start("spare")
    until(lambda: bench.has_reported("spare"), "the other worker is there", 40)
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    job_ids = [bench.submit(probes.gate, folder=str(folder)) for folder in folders]
    until(lambda: all((folder / "begun-1").exists() for folder in folders), "all have begun")
    for name in ("default", "spare"):
        bench.freeze(name)
    for folder in folders:
        (folder / "go").touch()
    leases = [job.lease_expires_at for job in map(bench.job, job_ids) if job.lease_expires_at]
    for offset, expires_at, job_id in zip((0.0, 0.3, 0.7, 1.2), leases, job_ids, strict=True):
        pids = slot_of(bench.job(job_id)), bench.runs(job_id)[0][1]
        left = (expires_at - datetime.now(UTC)).total_seconds() + offset
        time.sleep(max(0.0, left))
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    for name in ("default", "spare"):
        bench.thaw(name)

    bench.assert_done_once(*job_ids, seconds=bench.lease + 10)


# ---------------------------------------------------------------- told to end


@pytest.mark.row(5)
@pytest.mark.parametrize("whom", ["parent", "group"])
def test_a_worker_that_is_told_to_end_keeps_its_job_uncharged(
    bench: Bench, gate: Gate, begun: Begun, go: Go, whom: str
) -> None:
    job_id = gate(probes.steps, count=4)
    begun()
    program = bench.programs["default"]
    bench.meant_to_end.add("default")
    (os.killpg if whom == "group" else os.kill)(program.pid, signal.SIGTERM)
    program.wait(bench.grace + 20)
    bench.start("default")
    begun(2)
    go()

    bench.assert_done_once(job_id)
    job = bench.job(job_id)
    assert job.result == {"from": 3}
    assert (job.attempt, job.uncharged) == (2, 1)
    assert outcomes(bench, job_id) == ["handed_back", "succeeded"]


@pytest.mark.row(5)
def test_a_worker_that_is_told_to_end_lets_its_job_finish_within_the_grace(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    begun()
    worker = bench.terminate("default")
    go()

    assert worker.wait(bench.grace + 20) == 0
    bench.assert_done_once(job_id)
    assert outcomes(bench, job_id) == ["succeeded"]


@pytest.mark.row(5)
def test_a_hand_back_goes_on_where_a_doubled_message_has_run_before(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate(probes.steps, count=2)
    pid = begun()
    # As after a retry or a second look of the steward: other tasks of the same job have succeeded.
    bench.ring("default", job_id, times=3)
    bench.terminate("default").wait(bench.grace + 20)
    until(lambda: not is_alive(pid), "the attempt has ended", 2)
    bench.start("default")
    begun(2)
    go()

    bench.assert_done_once(job_id)
    assert bench.job(job_id).uncharged == 1


@pytest.mark.row(6)
def test_a_worker_that_is_killed_while_it_drains_is_as_one_that_is_killed(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    stand_by(bench)
    job_id = gate()
    pid = begun()
    bench.thaw("spare")
    program = bench.terminate("default")
    program.send_signal(signal.SIGTERM)
    bench.kill("default")
    until(lambda: not is_alive(pid), "its attempt ends with it", 3)
    begun(2, seconds=bench.lease + 5)
    go()

    bench.assert_done_once(job_id)


# ---------------------------------------------------------------- poison


@pytest.mark.row(22)
@pytest.mark.parametrize("by", ["segfault", "kill"])
def test_a_poison_job_is_quarantined_and_its_neighbours_keep_their_pace(
    bench: Bench, by: str
) -> None:
    worker = bench.programs["default"].pid
    poison = bench.submit(probes.crash, by=by)
    neighbours = [bench.submit(probes.nap, seconds=0.05) for _ in range(10)]
    bench.assert_done_once(*neighbours, seconds=10)
    job = bench.wait_for(poison, "failed", seconds=10)

    assert job.error_code == "poison"
    assert "not tried again" in str(job.error)
    assert outcomes(bench, poison) == ["lost", "lost"]
    assert bench.programs["default"].pid == worker
    assert {attempt.outcome for each in neighbours for attempt in bench.attempts(each)} == {
        "succeeded"
    }


@pytest.mark.row(22)
def test_a_job_for_which_there_is_no_memory_fails_and_its_neighbours_run(bench: Bench) -> None:
    bench.kill("default")
    bench.start("default", memory_bytes=2 * 2**30)
    hoarder = bench.submit(probes.crash, by="memory")
    neighbours = [bench.submit(probes.nap, seconds=0.05) for _ in range(10)]
    bench.assert_done_once(*neighbours, seconds=20)
    job = bench.wait_for(hoarder, "failed", seconds=10)

    assert "MemoryError" in str(job.error)


# ---------------------------------------------------------------- a job that ignores a cancel


@pytest.mark.row(26)
def test_a_job_that_ignores_its_cancel_is_killed_and_its_slot_serves_on(
    bench: Bench, gate: Gate, begun: Begun, tmp_path: Path
) -> None:
    person = bench.sign_in()
    job_id = gate(probes.deaf, owner_id=person.id)
    pid = begun()
    program, slot = int((tmp_path / "program").read_text()), slot_of(bench.job(job_id))
    assert person.http.post(f"/api/jobs/{job_id}/cancel").status_code == 200
    # It is told within a heartbeat, or the next look, and has its grace.
    bench.wait_for(job_id, "cancelled", seconds=bench.grace + 3)

    for each in (pid, program):
        assert not is_alive(each)
    assert is_alive(slot)
    after = [bench.submit(probes.nap, seconds=0.2) for _ in range(4)]
    bench.assert_done_once(*after)
    assert slot in {slot_of(bench.job(each)) for each in after}


@pytest.mark.row(26)
def test_a_forced_cancel_kills_at_once(
    bench: Bench, gate: Gate, begun: Begun, tmp_path: Path
) -> None:
    person = bench.sign_in()
    job_id = gate(probes.deaf, owner_id=person.id)
    pid = begun()
    person.http.post(f"/api/jobs/{job_id}/cancel", json={"terminate": True})
    bench.wait_for(job_id, "cancelled", seconds=2)

    assert not is_alive(pid)
    assert not is_alive(int((tmp_path / "program").read_text()))
