"""The clean-up: what is old goes, rows and files together, and it tells how much that was."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, update

from backend.clock import utc_now
from backend.config import Settings
from backend.db import Base, db, db_now, transaction
from backend.jobs import JobContext, attempts, batches, duties, submit, submit_batch
from backend.jobs.artifacts import keep
from backend.jobs.context import Cancelled, Published
from backend.jobs.models import Artifact, Attempt, Job, JobEvent, LogLine, Worker
from backend.storage.models import StoredFile
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import OWNER, claimed, in_transaction, now, on_both, submitted


def clean_up(tmp_path: Path) -> dict[str, int]:
    ctx = JobContext(folder=tmp_path, kind=duties.clean_up)
    return dict(duties.clean_up(ctx))


def ended(*, days_ago: float) -> Job:
    job = submitted()
    held = claimed()
    line = attempts.Line(at=utc_now(), level="info", message="hello")
    in_transaction(attempts.log_lines, held, [line])
    in_transaction(attempts.finish, held, {})
    with transaction() as session:
        session.execute(
            update(Job).where(Job.id == job.id).values(ended_at=db_now(-days_ago * 86400))
        )
    return now(job)


def count(table: type[Base]) -> int:
    db.session.commit()
    return db.session.scalar(select(func.count()).select_from(table)) or 0


def left_a_file(job: Job, path: Path, content: bytes, *, expired: bool) -> StoredFile:
    path.write_bytes(content)
    record = keep(OWNER, Published(path, "sum.txt", "text/plain"))
    with transaction() as session:
        record(session, job.id)
        file = session.scalars(select(StoredFile).order_by(StoredFile.id.desc())).first()
        assert file is not None
        file.expires_at = utc_now() + timedelta(days=-1 if expired else 1)
    return file


@on_both
def test_old_jobs_go_with_all_that_hangs_on_them_and_young_ones_stay(
    app: Flask, tmp_path: Path
) -> None:
    ended(days_ago=31)
    young = ended(days_ago=29)

    assert clean_up(tmp_path)["jobs"] == 1
    assert db.session.scalars(select(Job.id)).all() == [young.id]
    assert (count(Attempt), count(LogLine)) == (1, 1)
    assert set(db.session.scalars(select(JobEvent.job_id))) == {young.id}


@on_both
def test_active_jobs_stay_however_old_they_are(app: Flask, tmp_path: Path) -> None:
    running = submitted()
    held = claimed()
    with transaction() as session:
        old = db_now(-100 * 86400)
        submit_batch(session, probes.close, OWNER, probes.once, [("the item", {})])
        session.execute(update(Job).values(created_at=old, started_at=old))

    assert clean_up(tmp_path)["jobs"] == 0
    assert count(Job) == 3
    assert in_transaction(attempts.finish, held, {}).id == running.id


@on_both
def test_a_batch_goes_as_one_and_not_before_it_has_ended(app: Flask, tmp_path: Path) -> None:
    with transaction() as session:
        parent = submit_batch(session, probes.close, OWNER, probes.once, [("a", {}), ("b", {})])
    in_transaction(attempts.finish, claimed(), {})
    with transaction() as session:
        session.execute(update(Job).where(Job.ended_at.is_not(None)).values(ended_at=db_now(-9e6)))
    assert clean_up(tmp_path)["jobs"] == 0
    assert count(Job) == 3
    in_transaction(batches.cancel, now(parent), by=OWNER)
    with transaction() as session:
        session.execute(update(Job).values(ended_at=db_now(-9e6)))

    assert clean_up(tmp_path)["jobs"] == 1
    assert count(Job) == 0


@on_both
def test_a_large_batch_goes_slice_by_slice_and_its_owner_never_meets_a_part_of_it(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "AT_ONCE", 2)
    with transaction() as session:
        items = [(f"item {number}", {}) for number in range(5)]
        parent = submit_batch(session, probes.close, OWNER, probes.once, items)
    in_transaction(batches.cancel, now(parent), by=OWNER)
    with transaction() as session:
        session.execute(update(Job).values(ended_at=db_now(-9e6)))
    seen = []
    remove = duties._remove

    def watched(chosen: Any) -> int:
        mine = select(func.count()).select_from(Job).where(Job.owner_id == OWNER)
        seen.append(db.session.scalar(mine.where(Job.parent_id.is_(None))))
        db.session.commit()
        return remove(chosen)

    monkeypatch.setattr(duties, "_remove", watched)
    assert clean_up(tmp_path)["jobs"] == 1
    assert seen == [0] * 5  # three slices, one that finds nothing, and the batch itself
    assert count(Job) == 0


@on_both
def test_expired_files_go_with_their_contents_and_the_artifact_says_it_has_expired(
    app: Flask, tmp_path: Path
) -> None:
    settings: Settings = app.config["SLUICE"]
    job = ended(days_ago=1)
    kept = left_a_file(job, tmp_path / "kept", b"kept for now", expired=False)
    gone = left_a_file(job, tmp_path / "gone", b"no longer kept", expired=True)
    blobs = settings.data_dir / "blobs"
    assert (blobs / gone.key).exists()

    result = clean_up(tmp_path)

    assert (result["files"], result["freed_bytes"]) == (1, len(b"no longer kept"))
    assert not (blobs / gone.key).exists()
    assert (blobs / kept.key).read_bytes() == b"kept for now"
    files = db.session.scalars(select(Artifact.file_id).order_by(Artifact.id)).all()
    assert files == [kept.id, None]


@on_both
@pytest.mark.parametrize("is_batch", [False, True])
def test_a_file_is_kept_for_as_long_as_a_job_is_still_to_read_it(
    app: Flask, tmp_path: Path, is_batch: bool
) -> None:
    file = left_a_file(ended(days_ago=1), tmp_path / "read", b"read late", expired=True)
    with transaction() as session:
        if is_batch:
            item = ("the file", {"file_id": file.id})
            job = submit_batch(session, probes.close, OWNER, probes.read, [item])
        else:
            job = submit(session, probes.read, OWNER, file_id=file.id)
    assert clean_up(tmp_path)["files"] == 0

    in_transaction(batches.cancel, now(job), by=OWNER)
    with transaction() as session:
        session.execute(update(StoredFile).values(expires_at=utc_now()))
    assert clean_up(tmp_path)["files"] == 1


def test_workers_that_are_long_gone_are_forgotten(app: Flask, tmp_path: Path) -> None:
    with transaction() as session:
        for name, seen in (("gone@one", db_now(-9e5)), ("here@one", db_now())):
            session.add(
                Worker(name=name, queues=["default"], slots=1, started_at=db_now(), seen_at=seen)
            )
    clean_up(tmp_path)

    assert db.session.scalars(select(Worker.name)).all() == ["here@one"]


def test_the_second_time_there_is_nothing_left_to_do(app: Flask, tmp_path: Path) -> None:
    ended(days_ago=31)
    clean_up(tmp_path)

    assert clean_up(tmp_path) == {"jobs": 0, "files": 0, "orphans": 0, "freed_bytes": 0}


def test_a_clean_up_that_is_cancelled_stops_between_two_rounds(
    app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "AT_ONCE", 1)
    for _ in range(3):
        ended(days_ago=31)
    ctx = JobContext(folder=tmp_path, kind=duties.clean_up)
    monkeypatch.setattr(type(ctx.reporter), "stop_wanted", True)

    with pytest.raises(Cancelled):
        duties.clean_up(ctx)
    assert count(Job) == 2
