"""Remove what is no longer kept: expired files, blobs without a row, uploads that broke off.

A row goes first, and its blob after the commit, in a transaction of its own that holds the
owner's lock and looks again whether a row claims the blob. A request that stores the same
content meanwhile holds the same lock from before it looks for the blob until its row is
committed: either its row is seen here and the blob stays, or the blob is gone before the request
looks and is put again. So there is no moment at which a fresh row could lose its blob; whatever
a crash leaves in between is an orphan blob, which the sweep finds.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby, islice

import structlog
from sqlalchemy import ColumnElement, Row, delete, exists, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from backend.clock import utc_now
from backend.db import Base, after_commit, transaction
from backend.errors import Unavailable
from backend.storage.blobs import Blob, current_settings, store
from backend.storage.models import StoredFile, blob_key
from backend.storage.services import UPLOADS, lock_owner, place
from backend.storage.spool import Spool, sweep_spools

log = structlog.get_logger(__name__)

KEYS_AT_ONCE = 500

# Only what this application can have put: a bucket may hold other things. The end is that of a
# put that broke off.
_OWN_KEY = re.compile(r"(?P<owner>[1-9]\d*)/(?P<start>[0-9a-f]{2})/(?P=start)[0-9a-f]{62}(\.\w+)?")
# A foreign key that says what becomes of it when the file goes (SET NULL, CASCADE) lets it go.
_HOLDING = {"RESTRICT", "NO ACTION"}


@dataclass(frozen=True, slots=True)
class Freed:
    """How much a clean-up removed."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: "Freed") -> "Freed":
        return Freed(self.files + other.files, self.bytes + other.bytes)


@contextmanager
def placing(session: Session, owner_id: int, spools: Iterable[Spool]) -> Iterator[None]:
    """Place the spools' contents ahead of the block that stores them.

    If the block raises, those of the contents that no row claims are removed again.
    """
    placed: list[str] = []
    try:
        for spool in spools:
            place(session, owner_id, spool)
            placed.append(blob_key(owner_id, spool.sha256))
        yield
    except BaseException:
        # What cannot be removed just now is swept later.
        with suppress(SQLAlchemyError):
            session.rollback()
            _remove_unclaimed(placed)
        raise


def expire(session: Session, now: datetime) -> Freed:
    """Remove the files whose time has passed and that no row of another table holds.

    Their blobs go after the commit of `transaction()`.
    """
    due = (StoredFile.expires_at <= now, *_held_by_none())
    owners = select(StoredFile.owner_id).where(*due).distinct().order_by(StoredFile.owner_id)
    gone = [row for owner in session.scalars(owners).all() for row in _remove(session, owner, due)]
    keys = [blob_key(row.owner_id, row.sha256) for row in gone]
    after_commit(session, partial(_remove_unclaimed, keys))
    return Freed(len(gone), sum(row.size_bytes for row in gone))


def sweep_orphans(session: Session, older_than: timedelta) -> Freed:
    """Remove blobs without a row, and uploads that broke off, once they are this old.

    The age only spares uploads under way the work of putting a blob twice. To be called outside
    of a transaction: to list a large store takes long, and only the removals lock anything. The
    store belongs to this application's database alone.
    """
    before = utc_now() - older_than
    orphans = list(find_orphans(session, before))
    _remove_unclaimed([blob.key for blob in orphans])
    spools = sweep_spools(current_settings().workspaces / UPLOADS, before)
    blobs = Freed(len(orphans), sum(blob.size_bytes for blob in orphans))
    return blobs + Freed(len(spools), sum(spools))


def _held_by_none() -> list[ColumnElement[bool]]:
    """Return one condition for each column of any table that holds the files that it names."""
    return [
        ~exists().where(key.parent == StoredFile.id).correlate(StoredFile)
        for table in Base.metadata.tables.values()
        for key in table.foreign_keys
        if key.target_fullname == "stored_files.id"
        and (key.ondelete or "NO ACTION").upper() in _HOLDING
    ]


def _remove(
    session: Session, owner_id: int, due: tuple[ColumnElement[bool], ...]
) -> Sequence[Row[int, str, int]]:
    lock_owner(session, owner_id)
    statement = (
        delete(StoredFile)
        .where(StoredFile.owner_id == owner_id, *due)
        .returning(StoredFile.owner_id, StoredFile.sha256, StoredFile.size_bytes)
        .execution_options(synchronize_session=False)
    )
    try:
        with session.begin_nested():
            return session.execute(statement).all()
    except IntegrityError:
        # Something has taken hold of a file since the statement looked. The next run sees it.
        return []


def find_orphans(session: Session, before: datetime, most: int | None = None) -> Iterator[Blob]:
    """Yield the blobs that no row claims and that are older than a time, of so many at most."""
    old = (
        blob
        for blob in islice(store().list(), most)
        if blob.modified < before and _OWN_KEY.fullmatch(blob.key)
    )
    while some := list(islice(old, KEYS_AT_ONCE)):
        claimed = _claimed(session, [blob.key for blob in some])
        yield from (blob for blob in some if blob.key not in claimed)


def _remove_unclaimed(keys: Iterable[str]) -> None:
    """Delete those of the blobs that no row claims at this moment."""
    for owner_id, theirs in groupby(sorted(keys, key=_owner_of), key=_owner_of):
        while some := list(islice(theirs, KEYS_AT_ONCE)):
            try:
                with transaction() as session:
                    lock_owner(session, owner_id)
                    store().delete(set(some) - _claimed(session, some))
            except Unavailable as error:
                # The rows are gone already; the sweep finds these blobs later.
                log.warning("blobs_left_behind", count=len(some), reason=str(error))
                return


def _claimed(session: Session, keys: Sequence[str]) -> set[str]:
    owners = {_owner_of(key) for key in keys}
    hashes = {key.rpartition("/")[2] for key in keys}
    rows = select(StoredFile.owner_id, StoredFile.sha256).where(
        StoredFile.owner_id.in_(owners), StoredFile.sha256.in_(hashes)
    )
    return {blob_key(owner_id, sha256) for owner_id, sha256 in session.execute(rows)}


def _owner_of(key: str) -> int:
    return int(key.partition("/")[0])
