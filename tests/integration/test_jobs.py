"""Jobs on real processes: seen, cancelled, killed in every place, and done exactly once."""

import io
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select

from backend.db import transaction
from backend.jobs import submit_batch
from backend.jobs.kinds import JobKind
from backend.jobs.models import Job
from tests.integration import probes
from tests.integration.stack import Person, Stack, is_alive, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

PDFS = Path(__file__).parents[1] / "fixtures/pdf"
SCANS = ["scan-colour.pdf", "scan-gray.pdf", "scan-1bit.pdf", "photo.pdf", "office.pdf", "form.pdf"]


@pytest.fixture
def gate(stack: Stack, tmp_path: Path) -> Iterator[Callable[..., UUID]]:
    """Submit a job that waits for the file `go`; the gate is open at the end of the test."""

    def submit(kind: JobKind[..., Any] = probes.gate, **params: Any) -> UUID:
        return stack.submit(kind, folder=str(tmp_path), **params)

    yield submit
    (tmp_path / "go").touch()


@pytest.fixture
def begun(tmp_path: Path) -> Callable[..., int]:
    """Wait until an attempt has begun; return the id of its process."""

    def wait(attempt: int = 1, seconds: float = 20) -> int:
        sign = tmp_path / f"begun-{attempt}"
        return int(until(lambda: sign.exists() and sign.read_text(), f"attempt {attempt}", seconds))

    return wait


@pytest.fixture
def go(tmp_path: Path) -> Callable[[], None]:
    return (tmp_path / "go").touch


def slot_of(job: Job) -> int:
    """The process that watches over a running job."""
    return int(str(job.worker).rpartition("/")[2])


def program_of(job: Job) -> str:
    return str(job.worker).partition("@")[0]


def send_pdfs(person: Person, *names: str) -> httpx.Response:
    files = [("files", (name, (PDFS / name).read_bytes(), "application/pdf")) for name in names]
    return person.http.post("/api/compress/bulk", files=files)


# ---------------------------------------------------------------- seen


def test_a_batch_of_pdfs_is_seen_to_rise_to_its_end_and_downloaded(running: Stack) -> None:
    person = running.sign_in()
    job_id = send_pdfs(person, *SCANS).json()["job_id"]
    url = f"/api/jobs/{job_id}"

    def poll() -> list[int]:
        seen = []
        while True:
            job = person.http.get(url).json()["job"]
            seen.append(job["percent"])
            if job["state"] not in {"PENDING", "PROGRESS"}:
                assert job["state"] == "SUCCESS"
                return seen
            time.sleep(0.05)

    def hold_on() -> list[int]:
        seen, etag = [], ""
        while True:
            answer = person.http.get(url, params={"wait": 5}, headers={"If-None-Match": etag})
            if answer.status_code == 304:
                continue
            etag = answer.headers["ETag"]
            seen.append(answer.json()["job"]["percent"])
            if answer.json()["status"] == "completed":
                return seen

    def listen() -> list[int]:
        with person.http.stream("GET", f"{url}/events") as stream:
            return [job["percent"] for job in jobs_in(stream.iter_lines())]

    with ThreadPoolExecutor(3) as pool:
        watchers = {look.__name__: pool.submit(look) for look in (poll, hold_on, listen)}
    for name, watcher in watchers.items():
        seen = watcher.result()
        assert seen == sorted(seen), f"{name} saw {seen}"
        assert seen[-1] == 100

    archive = zipfile.ZipFile(io.BytesIO(person.http.get(f"{url}/result").content))
    assert sorted(archive.namelist()) == sorted([*SCANS, "report.csv"])
    assert archive.read(SCANS[0]).startswith(b"%PDF-")


def jobs_in(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The jobs that a stream of events shows."""
    kind = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data" and kind == "job":
            yield json.loads(value)


def test_a_job_can_be_followed_through_the_logs_of_all_processes(running: Stack) -> None:
    person = running.sign_in()
    files = {"files": ("form.pdf", (PDFS / "form.pdf").read_bytes(), "application/pdf")}
    answer = person.http.post(
        "/api/compress/bulk", files=files, headers={"X-Request-ID": "follow-me"}
    )
    job_id = answer.json()["job_id"]
    running.wait_for(UUID(job_id), "succeeded")

    def told() -> list[dict[str, Any]]:
        lines = running.log_lines("web", "high", "default", "low")
        return [line for line in lines if line.get("request_id") == "follow-me"]

    until(lambda: len([line for line in told() if line["event"] == "attempt_ended"]) == 2, "ends")
    assert [line["status"] for line in told() if line["event"] == "request"] == [202]
    ends = [line for line in told() if line["event"] == "attempt_ended"]
    assert [line["outcome"] for line in ends] == ["succeeded", "succeeded"]
    assert ends[-1]["job_id"] == job_id
    for line in ends:
        assert line["attempt"] == 1
        assert line["worker"].startswith(("default@", "high@"))
        assert line["timestamp"].endswith("Z")


def test_workers_are_seen_and_what_they_did_is_counted(running: Stack) -> None:
    running.assert_done_once(running.submit(probes.nap, seconds=0.0))
    ready = httpx.get(f"{running.url}/readyz").json()
    assert ready["checks"] == dict.fromkeys(("database", "broker", "storage", "workers"), "ok")

    def metrics() -> dict[str, float]:
        lines = httpx.get(f"{running.url}/metrics").text.splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    count = 'sluice_attempts_total{kind="probe.nap",outcome="succeeded"}'
    until(lambda: metrics().get(count, 0) >= 1, "the attempt is counted")
    found = metrics()
    assert found['sluice_worker_slots{queue="high_priority"}'] == 3
    assert found['sluice_worker_slots{queue="default"}'] == 2
    assert found['sluice_worker_slots{queue="low_priority"}'] == 1
    assert found['sluice_jobs{kind="probe.nap",state="succeeded"}'] >= 1
    assert found['sluice_leases{state="expired"}'] == 0


# ---------------------------------------------------------------- cancelled


def test_a_running_job_is_cancelled_over_http_and_leaves_nothing(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int]
) -> None:
    person = running.sign_in()
    job_id = gate(owner_id=person.id)
    pid = begun()
    answer = person.http.post(f"/api/jobs/{job_id}/cancel").json()

    assert answer["job"]["state"] == "CANCELLING"
    running.wait_for(job_id, "cancelled", seconds=5)
    until(lambda: not is_alive(pid), "its process has ended", 2)
    assert running.traces(job_id) == []


def test_a_batch_is_cancelled_in_the_middle_and_keeps_what_is_done(
    running: Stack, tmp_path: Path, begun: Callable[..., int]
) -> None:
    person = running.sign_in()
    with running.app.app_context(), transaction() as session:
        children = [(f"item {number}", {"folder": str(tmp_path)}) for number in range(6)]
        batch = submit_batch(session, probes.close, person.id, probes.gate, children).id
    begun()
    answer = person.http.post(f"/api/jobs/{batch}/cancel", json={"terminate": True})

    assert answer.status_code == 200
    running.wait_for(batch, "cancelled", seconds=8)
    children = person.http.get(f"/api/jobs/{batch}/children").json()["jobs"]
    assert {child["state"] for child in children} == {"REVOKED"}


# ---------------------------------------------------------------- killed


def test_a_killed_slot_is_a_lost_worker_and_the_job_runs_again_within_seconds(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate()
    attempt_pid = begun()
    os.kill(slot_of(running.job(job_id)), signal.SIGKILL)
    until(lambda: not is_alive(attempt_pid), "the attempt ends with its slot", 3)
    begun(2, seconds=5)
    go()

    running.assert_done_once(job_id)
    first, second = running.attempts(job_id)
    assert (first.outcome, second.outcome) == ("lost", "succeeded")
    assert "worker was lost" in str(first.error)


def test_a_killed_attempt_runs_again_and_its_slot_goes_on(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate()
    os.kill(begun(), signal.SIGKILL)
    begun(2, seconds=5)
    go()

    running.assert_done_once(job_id)
    assert [attempt.outcome for attempt in running.attempts(job_id)] == ["lost", "succeeded"]


def test_a_killed_worker_takes_its_processes_along_and_its_jobs_run_again(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate()
    attempt_pid, job = begun(), running.job(job_id)
    running.kill(program_of(job))
    for pid in (attempt_pid, slot_of(job)):
        until(lambda pid=pid: not is_alive(pid), "its processes end with the worker", 3)
    running.start(program_of(job))
    # A lease is six seconds, the steward looks every second.
    begun(2, seconds=11)
    go()

    running.assert_done_once(job_id)


def test_a_killed_beat_holds_up_nothing_that_is_rung_for(running: Stack) -> None:
    running.kill("beat")
    running.assert_done_once(running.submit(probes.nap, seconds=0.0), seconds=5)


def test_a_killed_web_process_loses_no_job_and_the_others_answer(running: Stack) -> None:
    person = running.sign_in()
    job_id = UUID(send_pdfs(person, "form.pdf", "office.pdf").json()["job_id"])
    victim = next(pid for pid in running.processes() if _parent(pid) == running.programs["web"].pid)
    os.kill(victim, signal.SIGKILL)

    def state() -> Any:
        try:
            return person.http.get(f"/api/jobs/{job_id}").json()["status"] == "completed"
        except httpx.TransportError:  # the connection that it had with the victim
            return False

    until(state, "the batch is done and the web answers")


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_broker_killed_under_running_jobs_costs_none_of_them(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate()
    begun()
    waiting = [running.submit(probes.nap, seconds=0.0) for _ in range(5)]
    running.kill("broker")
    go()
    running.assert_done_once(job_id)
    running.start("broker")

    running.assert_done_once(*waiting, seconds=25)
    assert [attempt.outcome for attempt in running.attempts(job_id)] == ["succeeded"]


def test_a_slot_that_stood_still_past_its_lease_changes_nothing_when_it_goes_on(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate()
    attempt_pid, slot = begun(), slot_of(running.job(job_id))
    for pid in (slot, attempt_pid):
        os.kill(pid, signal.SIGSTOP)
    begun(2, seconds=12)
    for pid in (attempt_pid, slot):
        os.kill(pid, signal.SIGCONT)
    until(lambda: not is_alive(attempt_pid), "the late attempt is ended", 5)
    go()

    running.assert_done_once(job_id)
    assert [attempt.outcome for attempt in running.attempts(job_id)] == ["lost", "succeeded"]
    assert is_alive(slot)


def test_a_broker_killed_as_a_job_ends_takes_no_worker_along(running: Stack) -> None:
    for _ in range(2):
        job_id = running.submit(probes.nap, seconds=0.0)
        running.assert_done_once(job_id)
        running.kill("broker")
        running.start("broker")

    running.assert_done_once(running.submit(probes.nap, seconds=0.0))
    assert not running.ended()


# ---------------------------------------------------------------- the broker forgets


def test_work_is_accepted_at_once_while_the_broker_stands_still(running: Stack) -> None:
    person = running.sign_in()
    running.programs["broker"].send_signal(signal.SIGSTOP)
    started = time.monotonic()
    answer = send_pdfs(person, "form.pdf")
    took = time.monotonic() - started
    running.programs["broker"].send_signal(signal.SIGCONT)

    assert answer.status_code == 202
    assert took < 1.5
    running.wait_for(UUID(answer.json()["job_id"]), "succeeded", seconds=25)


def test_a_cancel_needs_no_broker(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int]
) -> None:
    person = running.sign_in()
    job_id = gate(owner_id=person.id)
    begun()
    running.kill("broker")
    answer = person.http.post(f"/api/jobs/{job_id}/cancel")

    assert answer.status_code == 200
    running.wait_for(job_id, "cancelled", seconds=4)


def test_work_is_accepted_within_a_second_while_the_broker_is_away(running: Stack) -> None:
    person = running.sign_in()
    send_pdfs(person, "form.pdf")  # the process has been warm, as it is in real life
    running.kill("broker")
    started = time.monotonic()
    answer = send_pdfs(person, "form.pdf")
    took = time.monotonic() - started
    running.start("broker")

    assert answer.status_code == 202
    assert took < 1.0
    running.wait_for(UUID(answer.json()["job_id"]), "succeeded", seconds=60)


def test_a_backlog_that_the_broker_forgets_is_run_all_the_same(running: Stack) -> None:
    running.terminate("default").wait(15)
    backlog = [running.submit(probes.nap, seconds=0.0) for _ in range(20)]
    running.flush_broker()
    running.start("default")

    running.assert_done_once(*backlog, seconds=30)


def test_the_same_message_fifty_times_is_one_run(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate()
    running.ring("default", job_id, times=50)
    begun()
    go()

    running.assert_done_once(job_id)
    assert len(running.attempts(job_id)) == 1


# ---------------------------------------------------------------- a deploy


def test_a_worker_that_is_told_to_end_lets_its_job_finish_within_the_grace(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate()
    begun()
    worker = running.terminate(program_of(running.job(job_id)))
    go()

    assert worker.wait(10) == 0
    assert [attempt.outcome for attempt in running.attempts(job_id)] == ["succeeded"]
    running.assert_done_once(job_id)


def test_after_the_grace_a_job_is_handed_back_uncharged_and_goes_on_from_its_checkpoint(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    job_id = gate(probes.steps, count=4)
    pid = begun()
    # As after a retry or a second look of the steward: other tasks of the same job have succeeded.
    running.ring("default", job_id, times=3)
    name = program_of(running.job(job_id))
    running.terminate(name).wait(30)
    until(lambda: not is_alive(pid), "the attempt has ended", 2)
    assert running.attempts(job_id)[0].outcome == "handed_back"
    running.start(name)
    begun(2)
    go()

    running.assert_done_once(job_id)
    assert running.job(job_id).result == {"from": 3}
    assert running.job(job_id).uncharged == 1
    steps = [line for line in running.traces(job_id) if line.startswith("step")]
    assert steps == [f"step {number}" for number in range(4)]


# ---------------------------------------------------------------- fairness


def test_a_high_priority_job_starts_within_a_second_over_a_backlog(running: Stack) -> None:
    backlog = [running.submit(probes.nap, seconds=0.1) for _ in range(40)]
    running.wait_for(backlog[0], "succeeded")
    urgent = running.submit(probes.urgent_nap, seconds=0.0)
    running.assert_done_once(urgent, seconds=5)

    job = running.job(urgent)
    assert job.started_at is not None
    assert (job.started_at - job.created_at).total_seconds() < 1.0
    running.assert_done_once(*backlog, seconds=40)


def test_a_low_priority_job_starts_under_endless_high_load(running: Stack) -> None:
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            with running.ledger() as session:
                waits = select(Job.id).where(Job.queue == "high_priority", Job.state == "queued")
                missing = 20 - len(session.scalars(waits).all())
            for _ in range(missing):
                running.submit(probes.urgent_nap, seconds=0.1)
            over.wait(0.2)

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        idle = running.submit(probes.idle_nap, seconds=0.0)
        try:
            running.assert_done_once(idle, seconds=10)
        finally:
            over.set()
        loading.result()
    until(running.is_idle, "the load is worked off", 30)
