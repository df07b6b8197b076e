"""Two machines with a worker each, what they share on a third, and links that can be cut."""

import io
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from tests.faults.machines.cluster import MACHINES, SLOTS, Cluster
from tests.integration import probes
from tests.integration.stack import FAST, is_alive, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.needs("ip", "nsenter", "setpriv", "initdb", "pg_ctl", "redis-server"),
]

PDFS = Path(__file__).parents[2] / "fixtures/pdf"
NAMES = ("form.pdf", "office.pdf", "photo.pdf")
LEASE_SECONDS = float(FAST["LEASE_SECONDS"])
ROUND_SECONDS = 5.0  # of the steward, and for a doorbell that the lost machine had taken along
# TCP tries again after twice the time that it waited before, so as late again as the cut was long.
AGAIN_SECONDS = 60.0


def other(machine: str) -> str:
    return next(each for each in MACHINES if each != machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_files_go_to_any_machine_and_artifacts_come_from_it(cluster: Cluster, machine: str) -> None:
    cluster.terminate(other(machine)).wait(15)
    person = cluster.sign_in()
    files = [("files", (name, (PDFS / name).read_bytes(), "application/pdf")) for name in NAMES]
    job_id = person.http.post("/api/compress/bulk", files=files).json()["job_id"]
    cluster.wait_for(UUID(job_id), "succeeded")

    assert cluster.machines_of_children(UUID(job_id)) == {machine}
    result = person.http.get(f"/api/jobs/{job_id}/result").content
    archive = zipfile.ZipFile(io.BytesIO(result))
    assert sorted(archive.namelist()) == sorted([*NAMES, "report.csv"])
    assert archive.read("form.pdf").startswith(b"%PDF-")


def test_a_batch_is_spread_over_the_machines(cluster: Cluster) -> None:
    jobs = [cluster.submit(probes.nap, seconds=0.2) for _ in range(12)]

    cluster.assert_done_once(*jobs)
    assert {cluster.machine_of(job_id) for job_id in jobs} == set(MACHINES)


@pytest.mark.row(35)
def test_a_machine_that_is_cut_off_and_comes_back_changes_nothing(
    cluster: Cluster, signs: Path, gate: Callable[..., UUID], begun: Callable[..., int]
) -> None:
    job_id = gate()
    late_pid = begun()
    lost = cluster.machine_of(job_id)
    cluster.network.cut(lost)
    rescuer_pid = begun(2, LEASE_SECONDS + ROUND_SECONDS)
    assert cluster.machine_of(job_id) == other(lost)
    # The attempt elsewhere is still at it when the late one, told to go, finds its way back.
    os.kill(rescuer_pid, signal.SIGSTOP)
    try:
        (signs / "go").touch()
        cluster.network.mend(lost)
        until(
            lambda: is_over(cluster, lost, job_id, late_pid),
            "the late attempt is over",
            AGAIN_SECONDS,
        )
        assert cluster.job(job_id).state == "running"
        assert probes.EFFECT not in cluster.traces(job_id)
    finally:
        os.kill(rescuer_pid, signal.SIGCONT)

    cluster.assert_done_once(job_id)
    assert [attempt.outcome for attempt in cluster.attempts(job_id)] == ["lost", "succeeded"]
    assert cluster.job(job_id).result == {"attempt": 2}
    assert_serves(cluster, lost)


@pytest.mark.row(35)
def test_a_job_that_was_done_elsewhere_is_not_done_again_by_the_machine_that_comes_back(
    cluster: Cluster, signs: Path, gate: Callable[..., UUID], begun: Callable[..., int]
) -> None:
    jobs = [gate()]
    late_pid = begun()
    lost = cluster.machine_of(jobs[0])
    cluster.network.cut(lost)
    # Doorbells that go to the lost machine wake nobody: the steward rings again.
    jobs += [cluster.submit(probes.nap, seconds=0.0) for _ in range(6)]
    begun(2, LEASE_SECONDS + ROUND_SECONDS)
    (signs / "go").touch()
    cluster.assert_done_once(*jobs)
    cluster.network.mend(lost)
    until(
        lambda: is_over(cluster, lost, jobs[0], late_pid), "the late attempt is over", AGAIN_SECONDS
    )

    cluster.assert_done_once(*jobs)
    assert [attempt.outcome for attempt in cluster.attempts(jobs[0])] == ["lost", "succeeded"]
    assert_serves(cluster, lost)


def is_over(cluster: Cluster, machine: str, job_id: UUID, pid: int) -> bool:
    """Whether a machine's first attempt at a job is: refused at its end, or killed before it."""
    refused = {"event": "attempt_ended", "outcome": "lost", "job_id": str(job_id), "attempt": 1}
    said = any(refused.items() <= line.items() for line in cluster.log_lines(machine))
    return said or not is_alive(pid)


HOLD_ROW = """
import sys, time, psycopg
with psycopg.connect(sys.argv[1], keepalives=0) as connection:
    connection.execute("UPDATE jobs SET stage = stage WHERE id = %s", [sys.argv[2]])
    print("holds", flush=True)
    time.sleep(3600)
"""


def test_a_machine_that_vanishes_in_the_middle_of_a_write_holds_its_job_for_half_a_minute_at_most(
    cluster: Cluster, signs: Path, gate: Callable[..., UUID], begun: Callable[..., int]
) -> None:
    job_id = gate()
    begun()
    lost = cluster.machine_of(job_id)
    hold = [sys.executable, "-c", HOLD_ROW, cluster.libpq_address, str(job_id)]
    with subprocess.Popen(
        [*cluster.network.entering(lost), *hold], stdout=subprocess.PIPE
    ) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == b"holds\n"
            cluster.network.cut(lost)
            begun(2, LEASE_SECONDS + ROUND_SECONDS + 30)
        finally:
            writer.kill()
    (signs / "go").touch()

    cluster.assert_done_once(job_id)


def assert_serves(cluster: Cluster, machine: str) -> None:
    """Every slot of a machine works, with the others' machine away."""
    cluster.terminate(other(machine)).wait(15)
    jobs = [cluster.submit(probes.nap, seconds=0.5) for _ in range(2 * SLOTS)]

    cluster.assert_done_once(*jobs, seconds=AGAIN_SECONDS)
    assert {cluster.machine_of(job_id) for job_id in jobs} == {machine}
    slots = {cluster.job(job_id).worker for job_id in jobs}
    assert len(slots) == SLOTS
    assert httpx.get(f"{cluster.url}/readyz").status_code == 200
