"""A disk that is full, and the clean-up that makes room."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select, update

from backend.db import db_now, transaction
from backend.jobs import duties
from backend.jobs.models import Artifact, Job
from backend.storage.models import StoredFile
from tests.faults.bench import Bench, until
from tests.integration import probes
from tests.integration.stack import Person

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

Gate = Callable[..., UUID]
Begun = Callable[..., int]
Go = Callable[[], None]

PDFS = Path(__file__).parents[1] / "fixtures/pdf"
MONTH_SECONDS = 31 * 86400.0


def compress(bench: Bench, person: Person, name: str) -> UUID:
    files = [("files", (name, (PDFS / name).read_bytes(), "application/pdf"))]
    answer = person.http.post("/api/compress/bulk", files=files)
    assert answer.status_code == 202, answer.text
    job_id = UUID(answer.json()["job_id"])
    bench.accepted.add(job_id)
    bench.wait_for(job_id, "succeeded")
    return job_id


def age(bench: Bench, *job_ids: UUID) -> None:
    """Make jobs, and the files that they left, older than anything is kept."""
    with bench.app.app_context(), transaction() as session:
        chosen = Job.id.in_(job_ids) | Job.parent_id.in_(job_ids)
        ended = Job.ended_at.is_not(None)
        session.execute(update(Job).where(chosen).values(created_at=db_now(-MONTH_SECONDS)))
        session.execute(update(Job).where(chosen, ended).values(ended_at=db_now(-MONTH_SECONDS)))
        files = select(Artifact.file_id).join(Job, Job.id == Artifact.job_id).where(chosen)
        session.execute(
            update(StoredFile).where(StoredFile.id.in_(files)).values(expires_at=db_now(-60.0))
        )


def cleaned(bench: Bench) -> dict[str, Any]:
    job = bench.wait_for(bench.submit(duties.clean_up), "succeeded")
    return job.result or {}


def blobs(bench: Bench) -> list[Path]:
    return [path for path in (bench.data / "blobs").rglob("*") if path.is_file()]


@pytest.mark.row(16)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tiny file system")
def test_a_job_that_fills_the_disk_fails_and_says_so(bench: Bench) -> None:
    neighbours = [bench.submit(probes.nap, seconds=0.1) for _ in range(3)]
    job_id = bench.submit(probes.fill)
    job = bench.wait_for(job_id, "failed", seconds=30)

    assert job.error_code == "disk_full"
    assert "no room left on the disk" in str(job.error)
    assert [attempt.outcome for attempt in bench.attempts(job_id)] == ["failed"]
    bench.assert_done_once(*neighbours, bench.submit(probes.nap, seconds=0.0))


@pytest.mark.row(16)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tiny file system")
def test_on_a_disk_that_is_full_the_ledger_stays_whole_and_the_clean_up_makes_room(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    person = bench.sign_in()
    old = compress(bench, person, "photo.pdf")
    age(bench, old)
    bench.deleted.add(old)
    job_id = gate()
    begun()
    before = blobs(bench)
    with bench.disk_full():
        files = [("files", ("form.pdf", (PDFS / "form.pdf").read_bytes(), "application/pdf"))]
        answer = person.http.post("/api/compress/bulk", files=files)
        # Or accepted, if some room was made just before.
        assert answer.status_code in {202, 503, 507}, answer.text
        # Nobody has asked for the clean-up.
        until(lambda: len(blobs(bench)) < len(before), "room was made", 30)
        url, headers = f"{bench.url}/api/jobs/{old}", dict(person.http.headers)
        until(lambda: httpx.get(url, headers=headers).status_code == 404, "the old job is gone")
        go()
        bench.assert_done_once(job_id)

    assert compress(bench, person, "form.pdf")


@pytest.mark.row(33)
def test_the_clean_up_takes_what_has_ended_rows_and_files_together_and_no_more(
    bench: Bench, gate: Gate, begun: Begun, go: Go, tmp_path: Path
) -> None:
    person = bench.sign_in()
    old, young = compress(bench, person, "photo.pdf"), compress(bench, person, "form.pdf")
    running = gate(owner_id=person.id)
    begun()
    inner = tmp_path / "inner"
    inner.mkdir()
    children = [("quick", {"folder": str(inner)})]
    parent = bench.submit_batch(probes.gate, children, owner_id=person.id)
    until((inner / "begun-1").exists, "the child has begun")
    age(bench, old, running, parent)
    with bench.ledger() as session:
        left = select(StoredFile).join(Artifact, Artifact.file_id == StoredFile.id)
        gone = [file.key for file in session.scalars(left.where(Artifact.job_id == old))]
        kept = [file.key for file in session.scalars(left.where(Artifact.job_id == young))]
    made = cleaned(bench)
    bench.deleted.add(old)

    assert made["jobs"] >= 1
    assert made["files"] >= 1
    stored = {str(path.relative_to(bench.data / "blobs")) for path in blobs(bench)}
    assert stored.isdisjoint(gone)
    assert stored.issuperset(kept)
    assert person.http.get(f"/api/jobs/{old}").status_code == 404
    assert person.http.get(f"/api/jobs/{young}/result").status_code == 200
    go()
    (inner / "go").touch()
    bench.assert_done_once(running, parent)
