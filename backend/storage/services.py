"""Store files, read them, and say for how long they are kept.

Storing and removing take turns, owner by owner, and the lock lasts until the end of the
transaction: so the sum of an owner's files is exact, the same content from two requests is one
row, and no clean-up comes between a blob's being seen and its row's being committed. Call these
inside `transaction()`: on SQLite its write lock is the owner's lock.
"""

import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from sqlalchemy import Select, func, select, update
from sqlalchemy.orm import Session

from backend.clock import utc_now
from backend.errors import Gone, NotFound, TooLarge
from backend.storage.blobs import CHUNK_BYTES, current_settings, store
from backend.storage.models import StoredFile, blob_key
from backend.storage.spool import Spool, check_size

UPLOADS = "uploads"
UNKNOWN_MEDIA_TYPE = "application/octet-stream"
MAX_ID = 2**31 - 1

# RFC 6838, section 4.2. Anything else is not repeated in a header when the file is downloaded.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}", re.ASCII)
_OWNER_LOCK = 0x51_F1_1E  # the class of PostgreSQL's advisory locks on an owner's files


def open_spool() -> Spool:
    """Return an empty spool that takes a file of the largest size allowed."""
    settings = current_settings()
    return Spool(settings.workspaces / UPLOADS, settings.max_file_bytes)


def spool_path(path: Path, folder: Path | None = None) -> Spool:
    """Copy a local file into a spool. The file may change afterwards; what is stored does not.

    The spool is in the folder of uploads, or in the one given.
    """
    check_size(path.stat().st_size, current_settings().max_file_bytes)
    spool = Spool(folder, current_settings().max_file_bytes) if folder else open_spool()
    try:
        with path.open("rb") as content:
            shutil.copyfileobj(content, spool, CHUNK_BYTES)
    except BaseException:
        spool.close()
        raise
    return spool


def place(session: Session, owner_id: int, spool: Spool) -> None:
    """Check the limits and bring the content into the blob store ahead of its row.

    Worth calling before the transaction, so that a long transfer does not hold its locks.
    `store_spooled` does whatever of this is still to do. If it is never called, the blob is an
    orphan, and is swept.
    """
    spool.seal()
    check_size(spool.size_bytes, current_settings().max_file_bytes)
    if _find(session, owner_id, spool.sha256) is None:
        _check_total(session, owner_id, spool.size_bytes)
    key = blob_key(owner_id, spool.sha256)
    blob = store().find(key)
    if blob is None or blob.size_bytes != spool.size_bytes:
        store().put(key, spool.path)


def store_spooled(
    session: Session,
    owner_id: int,
    spool: Spool,
    media_type: str,
    *,
    expires_at: datetime | None,
) -> StoredFile:
    """Store what was spooled, and return its row; without `expires_at` it is kept.

    A content that the owner has already keeps its row and media type, and the later expiry.
    TooLarge says the limit, what is used, and what was asked. The spool is not closed.
    """
    lock_owner(session, owner_id)
    # The blob first: a crash may leave a blob without a row, never a row without a blob.
    place(session, owner_id, spool)
    file = _find(session, owner_id, spool.sha256)
    if file is None:
        file = StoredFile(
            owner_id=owner_id,
            sha256=spool.sha256,
            size_bytes=spool.size_bytes,
            media_type=media_type if _MEDIA_TYPE.fullmatch(media_type) else UNKNOWN_MEDIA_TYPE,
            expires_at=expires_at,
        )
        session.add(file)
    else:
        file.expires_at = _later(file.expires_at, expires_at)
    session.flush()
    return file


def store_path(
    session: Session,
    owner_id: int,
    path: Path,
    media_type: str,
    *,
    expires_at: datetime | None,
) -> StoredFile:
    """Store a copy of a local file, as `store_spooled` does."""
    with spool_path(path) as spool:
        return store_spooled(session, owner_id, spool, media_type, expires_at=expires_at)


def open_range(file: StoredFile, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Return the bytes from start up to, but not including, end, in chunks of a few MiB.

    Raises Gone, at the call, when the content is not there.
    """
    return store().read(file.key, start, end)


def fetch(file: StoredFile, target: Path) -> None:
    """Write the content to a local file of mode 0600, or raise Gone."""
    store().fetch(file.key, target)


def owned(session: Session, owner_id: int, file_id: int) -> StoredFile:
    """Return the owner's file, or raise NotFound, also when it is another's."""
    file = None
    if 0 < file_id <= MAX_ID:
        file = session.scalar(select(StoredFile).filter_by(id=file_id, owner_id=owner_id))
    if file is None:
        raise NotFound(f"There is no file {file_id}.")
    return file


def usage(session: Session, owner_id: int) -> int:
    """Return the bytes that the owner's files take."""
    total = select(func.coalesce(func.sum(StoredFile.size_bytes), 0))
    return int(session.scalar(total.where(StoredFile.owner_id == owner_id)) or 0)


def keep_until(session: Session, file: StoredFile, when: datetime | None) -> None:
    """Keep the file at least until then, or for good; raise Gone when it has been removed."""
    current = _current(session, file)
    current.expires_at = _later(current.expires_at, when)
    session.flush()


def keep_all_until(session: Session, ids: Select[int], when: datetime) -> None:
    """Keep the files that a query names at least until then."""
    session.execute(
        update(StoredFile)
        .where(StoredFile.id.in_(ids), StoredFile.expires_at < when)
        .values(expires_at=when)
        .execution_options(synchronize_session=False)
    )


def release(session: Session, file: StoredFile, when: datetime) -> None:
    """Let a file go that was kept for good: it may be removed then, once nothing holds it.

    A time that was set before stands if it is later: whoever asked for it still counts on it.
    """
    current = _current(session, file)
    current.expires_at = max(current.expires_at or when, when)
    session.flush()


def lock_owner(session: Session, owner_id: int) -> None:
    """Wait for a turn to store or remove the owner's files; it lasts until the commit."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_OWNER_LOCK, owner_id)))


def _find(session: Session, owner_id: int, sha256: str) -> StoredFile | None:
    found = select(StoredFile).filter_by(owner_id=owner_id, sha256=sha256)
    return session.scalar(found.execution_options(populate_existing=True))


def _current(session: Session, file: StoredFile) -> StoredFile:
    # Locked for the update, so that a clean-up that has chosen this row looks at it again.
    row = session.scalar(
        select(StoredFile)
        .filter_by(id=file.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if row is None:
        raise Gone("This file has expired.")
    return row


def _check_total(session: Session, owner_id: int, size_bytes: int) -> None:
    limit, used = current_settings().max_owner_bytes, usage(session, owner_id)
    if used + size_bytes <= limit:
        return
    first = session.scalar(select(func.min(StoredFile.expires_at)).filter_by(owner_id=owner_id))
    wait = (first - utc_now()).total_seconds() if first else None
    raise TooLarge(
        f"Your files may have at most {limit} bytes together; {used} are used, and this file has"
        f" {size_bytes}. Delete some"
        + (f", or come back after {first:%Y-%m-%d %H:%M} UTC, when one expires." if first else "."),
        code="storage_full",
        retry_after_seconds=max(wait, 60) if wait is not None else None,
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return None if one is None or other is None else max(one, other)
