"""Jobs on real processes: seen, cancelled, killed in every place, and done exactly once."""

import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from backend.db import transaction
from backend.jobs import submit_batch
from backend.jobs.broker import TASK
from backend.jobs.models import Job
from tests.integration import probes
from tests.integration.stack import Person, Stack, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

PDFS = Path(__file__).parents[1] / "fixtures/pdf"
SCANS = ["scan-colour.pdf", "scan-gray.pdf", "scan-1bit.pdf", "photo.pdf", "office.pdf", "form.pdf"]


def slot_of(job: Job) -> int:
    """The process that watches over a running job."""
    return int(str(job.worker).rpartition("/")[2].partition("-")[0])


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
    begun()
    answer = person.http.post(f"/api/jobs/{job_id}/cancel").json()

    assert answer["job"]["state"] == "CANCELLING"
    running.wait_for(job_id, "cancelled", seconds=5)
    # Its slot is free for the next.
    running.assert_done_once(*[running.submit(probes.nap, seconds=0.0) for _ in range(4)])
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


def test_thousands_of_doorbells_are_counted_exactly(running: Stack) -> None:
    running.terminate("low").wait(15)
    depths = running.app.extensions["sluice.broker_depths"]
    celery = running.app.extensions["sluice.celery"]
    # Not by the doorbell, which would spare most of them.
    with celery.connection_for_write() as link, celery.amqp.Producer(link.channel()) as producer:
        for _ in range(3000):
            celery.send_task(TASK, (uuid4().hex,), queue="low_priority", producer=producer)

    until(lambda: depths()["low_priority"] == 3000, "the broker has them all")
    running.flush_broker()
    assert depths()["low_priority"] == 0


def test_a_worker_of_two_queues_serves_the_first_of_them_first(
    running: Stack, gate: Callable[..., UUID], begun: Callable[..., int], go: Callable[[], None]
) -> None:
    running.terminate("high").wait(15)
    gates = [gate(), gate()]
    until(lambda: {running.job(each).state for each in gates} == {"running"}, "all slots are busy")
    waiting = [running.submit(probes.nap, seconds=0.1) for _ in range(10)]
    urgent = [running.submit(probes.urgent_nap, seconds=0.1) for _ in range(10)]
    go()

    running.assert_done_once(*gates, *waiting, *urgent, seconds=40)
    starts = [running.job(each).started_at for each in waiting]
    last = max(running.job(each).started_at for each in urgent)
    # A message that a slot had taken before may come first.
    assert len([start for start in starts if start < last]) <= 2
