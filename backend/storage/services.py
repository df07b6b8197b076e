"""Keeping files: content goes to the blob store, then a row says whose it is.

The order makes a crash harmless: content without a row is swept after an hour, and there is
never a row without its content. Rows and contents of one owner change under the owner's lock,
so that content which expires and comes again at the same moment is not lost.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from flask import current_app
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from backend.clock import utc_now
from backend.config import Settings
from backend.db import db, db_now, transaction
from backend.errors import NotFound, TooLarge
from backend.storage.blobs import store
from backend.storage.models import StoredFile, blob_key
from backend.storage.spool import Spool

ORPHAN_AGE = timedelta(hours=1)
AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Content:
    """A local file whose content is in the blob store already, to be recorded."""

    path: Path
    sha256: str
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class Freed:
    """What a clean-up removed."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: "Freed") -> "Freed":
        return Freed(self.files + other.files, self.bytes + other.bytes)


def new_spool() -> Spool:
    """A place for an upload, limited to the largest file that is accepted."""
    settings: Settings = current_app.config["SLUICE"]
    return Spool(settings.workspaces / "uploads", settings.max_file_bytes)


def put(owner_id: int, spool: Spool, media_type: str) -> Content:
    """Put what was received into the blob store; `record` makes it the owner's."""
    spool.flush()
    content = Content(spool.path, spool.sha256, spool.size_bytes, media_type)
    store().put(content.path, blob_key(owner_id, content.sha256))
    return content


def put_file(owner_id: int, path: Path, media_type: str) -> Content:
    """Put a local file's content into the blob store; `record` makes it the owner's."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    content = Content(path, sha256, path.stat().st_size, media_type)
    store().put(path, blob_key(owner_id, sha256))
    return content


def record(
    session: Session, owner_id: int, content: Content, *, expires_at: datetime | None
) -> StoredFile:
    """Make content the owner's; the same content twice is one row with the later expiry.

    Raises TooLarge if the owner's total would pass the limit. The local file must still be
    there: if the content expired since it was put, it is put again.
    """
    _lock_owner(session, owner_id)
    found = session.scalars(
        select(StoredFile).filter_by(owner_id=owner_id, sha256=content.sha256)
    ).one_or_none()
    if found is None:
        refuse_over_total(session, owner_id, content.size_bytes)
        found = StoredFile(
            owner_id=owner_id,
            sha256=content.sha256,
            size_bytes=content.size_bytes,
            media_type=content.media_type,
            created_at=utc_now(),
            expires_at=expires_at,
        )
        session.add(found)
        session.flush()
    else:
        keep_until(found, expires_at)
    if not store().exists(found.key):
        store().put(content.path, found.key)
    return found


def keep_until(file: StoredFile, when: datetime | None) -> None:
    """Keep a file at least until then; None keeps it until it is released."""
    if file.expires_at is not None:
        file.expires_at = None if when is None else max(file.expires_at, when)


def usage(session: Session, owner_id: int) -> int:
    """How many bytes an owner has stored."""
    total = select(func.coalesce(func.sum(StoredFile.size_bytes), 0))
    return int(session.scalar(total.where(StoredFile.owner_id == owner_id)) or 0)


def refuse_over_total(session: Session, owner_id: int, more_bytes: int) -> None:
    """Raise TooLarge if so much more would pass the owner's limit."""
    settings: Settings = current_app.config["SLUICE"]
    used = usage(session, owner_id)
    if used + more_bytes > settings.max_owner_bytes:
        raise TooLarge(
            f"You have {used} of {settings.max_owner_bytes} bytes stored;"
            f" {more_bytes} more do not fit. Delete files, or wait until some expire.",
            code="storage_full",
        )


def owned(session: Session, owner_id: int, file_id: int) -> StoredFile:
    """The owner's file; NotFound for an unknown id and for another's alike."""
    query = select(StoredFile).filter_by(id=file_id, owner_id=owner_id)
    found = session.scalars(query).one_or_none()
    if found is None:
        raise NotFound(f"There is no file {file_id}.")
    return found


def open_range(file: StoredFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The content from `start` up to `end` (exclusive), in chunks; Gone if it has expired."""
    return store().read(file.key, start, end)


def fetch(file: StoredFile, target: Path) -> None:
    """Write the content to a local file; Gone if it has expired."""
    store().fetch(file.key, target)


def expire() -> Freed:
    """Remove files whose time has come, rows and contents together, five hundred at a time."""
    freed = Freed()
    while True:
        with transaction() as session:
            query = select(StoredFile).where(StoredFile.expires_at <= db_now()).limit(AT_ONCE)
            due = session.scalars(query.with_for_update(skip_locked=True)).all()
            for owner_id in sorted({file.owner_id for file in due}):
                _lock_owner(session, owner_id)
            session.execute(delete(StoredFile).where(StoredFile.id.in_([f.id for f in due])))
            # Before the commit: a crash here leaves rows that have expired anyway.
            store().delete([file.key for file in due])
        freed += Freed(len(due), sum(file.size_bytes for file in due))
        if len(due) < AT_ONCE:
            return freed


def sweep() -> Freed:
    """Remove what crashes left behind: contents without a row, and uploads never finished."""
    before = utc_now() - ORPHAN_AGE
    freed = Freed()
    for blob in store().list():
        if blob.modified_at < before:
            freed += _remove_orphan(blob.key, blob.size_bytes)
    settings: Settings = current_app.config["SLUICE"]
    for path in (settings.workspaces / "uploads").glob("*"):
        info = path.stat()
        if datetime.fromtimestamp(info.st_mtime, before.tzinfo) < before:
            path.unlink(missing_ok=True)
            freed += Freed(1, info.st_size)
    return freed


def _remove_orphan(key: str, size_bytes: int) -> Freed:
    owner, _, sha256 = key.partition("/")[0], None, key.rpartition("/")[2]
    if not owner.isdigit():
        return Freed()
    row = select(StoredFile.id).filter_by(owner_id=int(owner), sha256=sha256)
    if db.session.execute(row).first():
        return Freed()
    with transaction() as session:
        _lock_owner(session, int(owner))
        if session.execute(row).first():
            return Freed()
        store().delete([key])
    return Freed(1, size_bytes)


def _lock_owner(session: Session, owner_id: int) -> None:
    """One change at a time of an owner's files. SQLite's write lock is that already."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(0x51, owner_id)))
