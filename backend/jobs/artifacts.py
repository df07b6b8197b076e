"""Artifacts: files that jobs leave for their owners, and how they are downloaded."""

import re
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from urllib.parse import quote
from uuid import UUID

from flask import Response, current_app, jsonify, request
from sqlalchemy.orm import Session
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.http import quote_etag

from backend.clock import utc_now
from backend.config import Settings
from backend.db import db
from backend.errors import Conflict, Gone
from backend.jobs.context import JobContext, Published
from backend.jobs.models import Artifact, Job
from backend.jobs.states import JobState
from backend.storage import services as storage
from backend.storage.models import StoredFile

UNSAFE = re.compile(r"[^\w ()+,=@.-]|\.\.", re.ASCII)

Record = Callable[[Session, UUID], None]


def keep(owner_id: int | None, published: Published) -> Record:
    """Put a published file into the blob store; the result records it with the job's end."""
    if owner_id is None:
        raise ValueError(f"{published.name} has no owner: a job of the system keeps no files")
    # Beside the file, so that an attempt that is killed leaves nothing but its scratch folder.
    spool = storage.spool_path(published.path, published.path.parent)
    storage.place(db.session(), owner_id, spool)
    db.session.commit()
    settings: Settings = current_app.config["SLUICE"]

    def record(session: Session, job_id: UUID) -> None:
        expires_at = utc_now() + timedelta(seconds=settings.artifact_retention_seconds)
        file = storage.store_spooled(
            session, owner_id, spool, published.media_type, expires_at=expires_at
        )
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
        raise Gone(f"{artifact.name} has expired; ask for it anew.")
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
    if request.if_none_match.contains_weak(file.sha256):
        return _described(Response(status=304), artifact, file)
    start, end, status = _range(file)
    # Opened before the first byte is answered, so that what has vanished is a 410, not a torn file.
    content = storage.open_range(file, start, end)
    response = Response(content, status=status, mimetype=artifact.media_type)
    if status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size_bytes}"
    response.content_length = end - start
    return _described(response, artifact, file)


def _described(response: Response, artifact: Artifact, file: StoredFile) -> Response:
    """The headers that a file's answer has, whether or not its content comes along."""
    response.headers["Accept-Ranges"] = "bytes"
    response.headers.set("Content-Disposition", "attachment", **filename_options(artifact.name))
    response.headers["Cache-Control"] = "private, no-cache"
    response.set_etag(file.sha256)
    return response


def filename_options(name: str) -> dict[str, str]:
    """The last part of the name, for old clients in ASCII too (RFC 6266, appendix D)."""
    name = name.rpartition("/")[2]
    if name.isascii():
        return {"filename": name}
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    # What folds to ASCII may become a path, or nothing before the dot.
    stem, dot, suffix = UNSAFE.sub("_", plain).rpartition(".")
    plain = f"{stem.strip('. ') or 'download'}{dot}{suffix}"
    return {"filename": plain, "filename*": f"UTF-8''{quote(name, safe='')}"}


def _range(file: StoredFile) -> tuple[int, int, int]:
    """The part to send: its start, its end (exclusive), and the status."""
    size, whole = file.size_bytes, (0, file.size_bytes, 200)
    wanted = request.range
    if request.method != "GET" or wanted is None:
        return whole
    if wanted.units != "bytes" or len(wanted.ranges) != 1:
        return whole
    # A weak tag and a date tell too little to join two parts (section 13.1.5).
    if request.headers.get("If-Range", quote_etag(file.sha256)) != quote_etag(file.sha256):
        return whole
    first = wanted.ranges[0][0]
    if first < 0:  # the last so many bytes, which may be more than there are
        return max(0, size + first), size, 206
    found = wanted.range_for_length(size)
    if found is None:
        raise RequestedRangeNotSatisfiable(length=size)
    return found[0], found[1], 206
