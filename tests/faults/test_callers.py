"""What callers do at awkward moments: cancel, retry, delete, listen."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from backend.jobs import Queue
from tests.faults.bench import Bench, until
from tests.integration import probes
from tests.integration.stack import WORKERS, is_alive

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

PDF = Path(__file__).parents[1] / "fixtures/pdf/form.pdf"

Gate = Callable[..., UUID]
Begun = Callable[..., int]
Go = Callable[[], None]


@pytest.mark.row(24)
def test_a_job_cancelled_while_it_is_queued_never_runs(bench: Bench) -> None:
    person = bench.sign_in()
    for name in WORKERS:
        bench.terminate(name)
    for name in WORKERS:
        bench.programs[name].wait(30)
    job_ids = [bench.submit(probes.nap, seconds=0.0, owner_id=person.id) for _ in range(5)]
    for job_id in job_ids:
        answer = person.http.post(f"/api/jobs/{job_id}/cancel")
        assert (answer.status_code, answer.json()["job"]["state"]) == (200, "REVOKED")
    bench.start(*WORKERS)
    bench.assert_done_once(bench.submit(probes.nap, seconds=0.0))

    assert [bench.runs(job_id) for job_id in job_ids] == [[]] * 5
    assert {bench.job(job_id).state for job_id in job_ids} == {"cancelled"}


@pytest.mark.row(25)
def test_a_cancel_that_races_the_completion_is_told_truly(
    bench: Bench, request: pytest.FixtureRequest
) -> None:
    """A thousand interleavings are in tests/unit/jobs/test_ledger.py; these are over HTTP."""
    person = bench.sign_in()
    dice = random.Random(25)  # noqa: S311 - it has to be repeatable
    told = Counter[str]()
    for _ in range(300 if request.config.getoption("full") else 25):
        job_id = bench.submit(probes.nap, seconds=0.08, owner_id=person.id)
        until(lambda job_id=job_id: bench.runs(job_id), "it has begun")
        time.sleep(dice.uniform(0, 0.12))
        said = person.http.post(f"/api/jobs/{job_id}/cancel").json()["job"]["state"]
        bench.wait_for(job_id, "succeeded", "cancelled")
        ends = {"CANCELLING": {"REVOKED", "SUCCESS"}}.get(said, {said})
        end = person.http.get(f"/api/jobs/{job_id}").json()["job"]["state"]
        assert end in ends, f"the caller was told {said}, and the job is {end}"
        assert bench.traces(job_id).count(probes.EFFECT) == (end == "SUCCESS")
        told[said] += 1
    assert told["SUCCESS"]
    assert told["SUCCESS"] < told.total(), "no cancel came before an end"


@pytest.mark.row(27)
def test_a_running_job_is_not_deleted(bench: Bench, gate: Gate, begun: Begun, go: Go) -> None:
    person = bench.sign_in()
    job_id = gate(owner_id=person.id)
    pid = begun()
    answer = person.http.delete(f"/api/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_active")
    assert is_alive(pid)
    go()
    bench.assert_done_once(job_id)

    assert person.http.delete(f"/api/jobs/{job_id}").status_code == 204
    bench.deleted.add(job_id)
    assert person.http.get(f"/api/jobs/{job_id}").status_code == 404


@pytest.mark.row(28)
def test_of_retries_at_the_same_moment_one_makes_one_new_attempt(bench: Bench) -> None:
    people = bench.sign_in()
    job_id = bench.submit(probes.crash, by="kill", owner_id=people.id)
    bench.wait_for(job_id, "failed")
    poisoned = len(bench.attempts(job_id))
    url = f"{bench.url}/api/jobs/{job_id}/retry"
    headers = dict(people.http.headers)
    # Or it may have failed again before the last of them comes.
    with bench.paused(Queue.DEFAULT), ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: httpx.post(url, headers=headers, timeout=20), range(8)))

    codes = Counter(answer.status_code for answer in answers)
    assert codes == {202: 1, 409: 7}
    bench.wait_for(job_id, "failed")
    # A retry is a whole number of attempts, and this kind has two.
    assert len(bench.attempts(job_id)) == poisoned + 2


@pytest.mark.row(34)
def test_a_stream_closes_when_its_token_expires(bench: Bench, gate: Gate, begun: Begun) -> None:
    port = bench.port
    brief = {"ACCESS_TOKEN_SECONDS": "3", "WEB_BIND": f"127.0.0.1:{port + 1}"}
    bench.start("web-brief", **brief)
    url = f"http://127.0.0.1:{port + 1}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/healthz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    until(answers, "the web of brief tokens answers")
    account = {"email": f"{time.time_ns()}@example.org", "password": "correct horse battery"}
    made = httpx.post(f"{url}/api/auth/register", json=account, timeout=10).json()
    gate_id = gate(owner_id=made["user"]["id"])
    begun()
    headers = {"Authorization": f"Bearer {made['access_token']}"}
    started = time.monotonic()
    with httpx.stream(
        "GET", f"{url}/api/jobs/{gate_id}/events", headers=headers, timeout=20
    ) as stream:
        said = list(stream.iter_lines())

    assert time.monotonic() - started < 6
    assert "event: end" in said
    assert any(json.loads(line[6:]).get("state") for line in said if line.startswith("data: {"))
    assert httpx.get(f"{url}/api/jobs/{gate_id}", headers=headers).status_code == 401


@pytest.mark.row(34)
def test_anothers_job_is_not_there(bench: Bench, gate: Gate, begun: Begun, go: Go) -> None:
    owner, stranger = bench.sign_in(), bench.sign_in()
    job_id = gate(owner_id=owner.id)
    begun()
    for method, path in (
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/log"),
        ("GET", "/attempts"),
        ("GET", "/children"),
        ("GET", "/result"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ):
        answer = stranger.http.request(method, f"/api/jobs/{job_id}{path}")
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
    assert owner.http.get(f"/api/jobs/{job_id}").json()["job"]["state"] == "PROGRESS"
    go()
    bench.assert_done_once(job_id)


def test_a_killed_web_process_loses_no_job_and_the_others_answer(bench: Bench) -> None:
    person = bench.sign_in()
    files = {"files": ("form.pdf", PDF.read_bytes(), "application/pdf")}
    job_id = UUID(person.http.post("/api/compress/bulk", files=files).json()["job_id"])
    bench.web_was_killed = True
    first = bench.programs["web"].pid
    os.kill(next(pid for pid in bench.tree("web") if pid != first), signal.SIGKILL)

    def is_done() -> bool:
        try:
            return bool(person.http.get(f"/api/jobs/{job_id}").json()["status"] == "completed")
        except httpx.TransportError:  # the connection that it had with the victim
            return False

    until(is_done, "the job is done and the web answers")
