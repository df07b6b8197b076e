"""Artifacts: files that jobs leave for their owners, and how they are downloaded."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from flask import Response, current_app, jsonify, request
from sqlalchemy.orm import Session
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from backend.clock import utc_now
from backend.config import Settings
from backend.errors import Conflict, Gone
from backend.jobs.context import JobContext, Published
from backend.jobs.models import Artifact, Job
from backend.jobs.states import JobState
from backend.storage import services as storage
from backend.storage.models import StoredFile

Record = Callable[[Session, UUID], None]


def keep(owner_id: int | None, published: Published) -> Record:
    """Put a published file into the blob store; the result records it with the job's end."""
    if owner_id is None:
        raise ValueError(f"{published.name} has no owner: a job of the system keeps no files")
    content = storage.put_file(owner_id, published.path, published.media_type)
    settings: Settings = current_app.config["SLUICE"]

    def record(session: Session, job_id: UUID) -> None:
        expires_at = utc_now() + timedelta(seconds=settings.artifact_retention_seconds)
        file = storage.record(session, owner_id, content, expires_at=expires_at)
        session.add(_artifact(job_id, file, published.name, published.media_type))

    return record


def hand_on(ctx: JobContext, artifact: Artifact) -> None:
    """Leave another job's file as this job's own, at its finish."""
    file = artifact.file
    if file is None:
        raise Gone(f"{artifact.name} has expired; make it again.")
    name, media_type = artifact.name, artifact.media_type
    ctx.at_finish(lambda session: session.add(_artifact(ctx.job_id, file, name, media_type)))


def _artifact(job_id: UUID, file: StoredFile, name: str, media_type: str) -> Artifact:
    return Artifact(
        job_id=job_id,
        file_id=file.id,
        name=name,
        media_type=media_type,
        size_bytes=file.size_bytes,
        created_at=utc_now(),
    )


def download(job: Job) -> Response:
    """The answer with what a job made: its file, or its result as JSON where it made none.

    Raises Conflict before the job has succeeded, Gone once the file has expired.
    """
    if job.state != JobState.SUCCEEDED:
        raise _not_there(job)
    if not job.artifacts:
        return jsonify(success=True, job_id=str(job.id), result=job.result)
    artifact = job.artifacts[0]
    if artifact.file is None or (
        artifact.file.expires_at is not None and artifact.file.expires_at <= utc_now()
    ):
        raise Gone(f"{artifact.name} has expired; run the job again to make it anew.")
    return serve(artifact, artifact.file)


def _not_there(job: Job) -> Conflict:
    if not job.ended:
        return Conflict("This job is not done yet.", code="not_ready", retry_after_seconds=2)
    reason = f": {job.error}" if job.error else "."
    return Conflict(
        f"This job was {job.state} and made nothing to download{reason}", code="no_result"
    )


def serve(artifact: Artifact, file: StoredFile) -> Response:
    """Stream a file, whole or the range asked for (RFC 9110, section 14)."""
    size = file.size_bytes
    start, end, status = _range(file)
    response = Response(_content(file, start, end), status=status, mimetype=artifact.media_type)
    response.headers["Accept-Ranges"] = "bytes"
    response.headers.set(
        "Content-Disposition", "attachment", filename=artifact.name.rpartition("/")[2]
    )
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(file.sha256)
    if status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    response.content_length = end - start
    if status == 200 and request.if_none_match.contains_weak(file.sha256):
        return _not_modified(response)
    return response


def _content(file: StoredFile, start: int, end: int) -> Iterator[bytes]:
    # Opened before the first byte is answered, so that what has vanished is a 410, not a torn file.
    return storage.open_range(file, start, end)


def _not_modified(response: Response) -> Response:
    response.response, response.status_code = [], 304
    response.headers.pop("Content-Length", None)
    return response


def _range(file: StoredFile) -> tuple[int, int, int]:
    """The part to send: its start, its end (exclusive), and the status."""
    size, whole = file.size_bytes, (0, file.size_bytes, 200)
    wanted = request.range
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) != 1:
        return whole
    condition: Any = request.if_range
    if condition.etag is not None and condition.etag != file.sha256:
        return whole
    found = wanted.range_for_length(size)
    if found is None:
        raise RequestedRangeNotSatisfiable(length=size)
    return found[0], found[1], 206
