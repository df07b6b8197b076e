"""Batches of PDFs to compress: made of what was sent, and told about file by file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import BoundedSemaphore
from typing import Any
from uuid import UUID

from flask import current_app
from sqlalchemy.orm import Session

from backend.accounts.models import User
from backend.clock import utc_now
from backend.compression import engine
from backend.compression.engine import Level, SignedPolicy
from backend.compression.jobs import compress_bulk, compress_file, summary
from backend.compression.schemas import BulkRequest
from backend.compression.sources import (
    Source,
    Stored,
    discarded,
    from_entries,
    spools_of,
    store_all,
)
from backend.config import Settings
from backend.crypto import seal
from backend.db import db, transaction
from backend.documents import services as documents
from backend.errors import NotFound, Unavailable
from backend.jobs import queries, submit_batch
from backend.jobs.models import Job
from backend.jobs.schemas import state_of, whole_percent
from backend.jobs.signals import ring
from backend.jobs.states import CLIENT_STATE, CLIENT_STATUS, JobState
from backend.storage import services as storage
from backend.storage.sweeping import placing

# Looking at a file takes a processor for two seconds, and a web server has others to answer.
ESTIMATES_AT_ONCE, ESTIMATE_WAIT_SECONDS = 2, 1.0
_estimating = BoundedSemaphore(ESTIMATES_AT_ONCE)

FILE_STATUS = {**CLIENT_STATUS, JobState.RETRYING: "pending"}


def submit(
    session: Session, owner_id: int, files: Sequence[Stored], settings: Mapping[str, Any]
) -> Job:
    """Make a batch of stored files, in the caller's transaction.

    `settings` has the fields of `BatchSettings`.
    """
    children = [(file.name, _params(file, settings)) for file in files]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return submit_batch(
        session,
        compress_bulk,
        owner_id,
        compress_file,
        children,
        label=files[0].name + more,
        file_count=len(files),
    )


def _params(file: Stored, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "file_id": file.file.id,
        "name": file.name,
        "original_bytes": file.file.size_bytes,
        "level": Level(settings["compression_level"]),
        "image_quality": settings["image_quality"],
        "target_bytes": settings["target_bytes"],
        "sealed_password": seal(file.password) if file.password else None,
        "signed": SignedPolicy(settings["signed"]),
        "compress_attachments": settings["compress_attachments"],
    }


def submit_received(
    session: Session,
    owner_id: int,
    sources: Sequence[Source],
    settings: Mapping[str, Any],
) -> Job:
    """Store what was sent and make a batch of it: all of it, or nothing."""
    limits: Settings = current_app.config["SLUICE"]
    expires_at = utc_now() + timedelta(seconds=limits.upload_retention_seconds)
    stored = store_all(session, owner_id, sources, expires_at)
    return submit(session, owner_id, stored, settings)


def estimate(session: Session, owner_id: int, source: Source) -> dict[str, Any]:
    """How small a file will get, by a program that has two seconds for it.

    Raises NotFound for a document that is none of the owner's, InvalidInput for what is no PDF or
    cannot be opened, Unavailable when too many are being looked at.
    """
    if not _estimating.acquire(timeout=ESTIMATE_WAIT_SECONDS):
        raise Unavailable("Many files are being looked at just now. Try again in a moment.")
    try:
        with TemporaryDirectory(prefix="estimate-") as folder:
            name, path = _at_hand(session, owner_id, source, Path(folder))
            found = engine.estimate(path, source.password)
    finally:
        _estimating.release()
    return {
        **asdict(found),
        "success": True,
        "name": name,
        "expected": [{"level": level, "bytes": size} for level, size in found.expected.items()],
    }


def _at_hand(session: Session, owner_id: int, source: Source, folder: Path) -> tuple[str, Path]:
    if source.spool is not None:
        source.spool.seal()
        return source.name, source.spool.path
    document = documents.owned(session, owner_id, source.document_id or 0)
    path = folder / "source.pdf"
    storage.fetch(document.file, path)
    session.commit()  # the look takes long
    return document.name, path


def owned_batch(session: Session, owner_id: int, job_id: UUID) -> Job:
    """The owner's batch; NotFound for what is none of theirs, or no batch."""
    job = queries.owned(session, owner_id, job_id)
    if job.kind != compress_bulk.name:
        raise NotFound(f"There is no compression job {job_id}.")
    return job


def status_of(session: Session, job: Job) -> dict[str, Any]:
    """How a batch is doing, file by file."""
    files = queries.children(session, job.id)
    sums = summary(files)
    return {
        "success": True,
        "job_id": job.id,
        "status": CLIENT_STATUS[state_of(job)],
        "progress": whole_percent(job),
        "completed_count": sum(file.ended for file in files),
        "file_count": len(files),
        "original_bytes": sum(file.params["original_bytes"] for file in files),
        "compressed_bytes": sums["compressed_bytes"],
        "error": job.error if job.state == JobState.FAILED else None,
        "error_message": job.error if job.state == JobState.FAILED else None,
        "files": [_file_status(file) for file in files],
    }


def _file_status(file: Job) -> dict[str, Any]:
    receipt = file.result if file.state == JobState.SUCCEEDED else None
    return {
        "name": file.label,
        "status": FILE_STATUS[JobState(file.state)],
        "percent": whole_percent(file),
        "original_bytes": file.params["original_bytes"],
        "compressed_bytes": receipt["compressed_bytes"] if receipt else None,
        "error": file.error if file.state == JobState.FAILED else None,
        "receipt": receipt,
        "job_id": file.id,
    }


class BulkCompressionService:
    """Bulk compression from Python, under the names that earlier callers use.

    Needs an application context. A file is `{"name": …, "content": …}` with bytes or base64, or
    `{"document_id": …}`, and may have a `password`; settings are those of `BatchSettings`, each
    optional. What is read is read in a session of its own: a caller that asks again and again sees
    how the job goes on, whatever it holds open.
    """

    def create_bulk_job(
        self,
        user_id: int,
        files: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any] | None = None,
    ) -> Job:
        """Make a batch, which starts by itself; its `.id` and `.task_id` are the same.

        Raises NotFound for an unknown user or document, marshmallow's ValidationError for what is
        not as said above, InvalidInput for a file that is no PDF, TooLarge over the limits.
        """
        if db.session.get(User, user_id) is None:
            raise NotFound(f"There is no user {user_id}.")
        loaded = BulkRequest().load({**(settings or {}), "files": [_as_entry(f) for f in files]})
        sources = from_entries(loaded["files"])
        with (
            discarded(sources),
            placing(db.session(), user_id, spools_of(sources)),
            transaction() as session,
        ):
            return submit_received(session, user_id, sources, loaded)

    def process_bulk_job_async(self, job_id: UUID | str) -> str:
        """Return the task's id, ringing once more for a batch that still waits."""
        with transaction() as session:
            job = self._job(session, job_id)
            ring(session, compress_file.queue, [job.id])
        return job.task_id

    def get_task_status(self, task_id: UUID | str) -> dict[str, Any]:
        """`state`, in Celery's names, and `progress` in whole percent."""
        with Session(db.engine) as session:
            job = self._job(session, task_id)
            return {"state": CLIENT_STATE[state_of(job)], "progress": whole_percent(job)}

    def get_job_progress(self, job_id: UUID | str) -> dict[str, int]:
        """`completed_count` and `file_count`."""
        with Session(db.engine) as session:
            status = status_of(session, self._job(session, job_id))
            return {name: status[name] for name in ("completed_count", "file_count")}

    @staticmethod
    def _job(session: Session, job_id: UUID | str) -> Job:
        key = job_id if isinstance(job_id, UUID) else UUID(job_id)
        job = session.get(Job, key)
        if job is None or job.kind != compress_bulk.name:
            raise NotFound(f"There is no compression job {job_id}.")
        return job


def _as_entry(file: Mapping[str, Any]) -> dict[str, Any]:
    content = file.get("content")
    if isinstance(content, bytes):
        return {**file, "content": base64.b64encode(content).decode()}
    return dict(file)
