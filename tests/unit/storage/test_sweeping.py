"""Rows and blobs go together, and never a blob that a row still needs."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import Column, ForeignKey, Integer, Table, delete, insert, select

from backend.accounts.models import User
from backend.clock import utc_now
from backend.db import Base, after_commit, db, transaction
from backend.errors import Unavailable
from backend.storage import sweeping
from backend.storage.blobs import Blobs, FolderBlobs
from backend.storage.models import StoredFile, blob_key
from backend.storage.services import open_range, open_spool, place, store_spooled
from backend.storage.sweeping import Freed, expire, sweep_orphans
from tests.unit.storage.conftest import ALICE, BOB, SpoolOf

HOUR = timedelta(hours=1)
AT_ONCE = timedelta(seconds=-1)


class Crash(Exception):
    pass


def keep(spool_of: SpoolOf, content: bytes, owner_id: int = ALICE, *, past: bool) -> StoredFile:
    expires_at = utc_now() - HOUR if past else utc_now() + HOUR
    with spool_of(content) as spool, transaction() as session:
        return store_spooled(session, owner_id, spool, "text/plain", expires_at=expires_at)


def run_expire() -> Freed:
    with transaction() as session:
        return expire(session, utc_now())


def run_sweep(older_than: timedelta) -> Freed:
    return sweep_orphans(db.session(), older_than)


def files() -> set[int]:
    return set(db.session().scalars(select(StoredFile.id)))


def keys(blobs: Blobs) -> set[str]:
    return {blob.key for blob in blobs.list()}


def test_freed_adds_up() -> None:
    assert Freed(1, 10) + Freed(2, 5) == Freed(3, 15)
    assert sum([Freed(1, 1), Freed(1, 2)], Freed()) == Freed(2, 3)


def test_expired_files_go_with_their_blobs_and_the_sum_is_told(
    spool_of: SpoolOf, blobs: Blobs
) -> None:
    keep(spool_of, b"old", past=True)
    keep(spool_of, b"older", BOB, past=True)
    fresh = keep(spool_of, b"fresh", past=False)
    assert run_expire() == Freed(2, 8)
    assert files() == {fresh.id}
    assert keys(blobs) == {fresh.key}
    assert run_expire() == Freed()


def test_a_file_without_an_expiry_stays(spool_of: SpoolOf) -> None:
    with transaction() as session:
        file = store_spooled(session, ALICE, spool_of(b"x"), "text/plain", expires_at=None)
    assert run_expire() == Freed()
    assert files() == {file.id}


def test_a_clean_up_that_fails_removes_neither_row_nor_blob(
    spool_of: SpoolOf, blobs: Blobs
) -> None:
    file = keep(spool_of, b"x", past=True)
    with suppress(Crash), transaction() as session:
        expire(session, utc_now())
        raise Crash
    assert files() == {file.id}
    assert keys(blobs) == {file.key}


@pytest.fixture
def users_of_files(request: pytest.FixtureRequest) -> Iterator[Table]:
    """A table of another domain that refers to files."""
    table = Table(
        "test_users_of_files",
        Base.metadata,
        Column("id", Integer, primary_key=True),
        Column("file_id", ForeignKey("stored_files.id", ondelete=request.param)),
    )
    yield table
    Base.metadata.remove(table)


@pytest.mark.parametrize("users_of_files", [None, "RESTRICT", "NO ACTION"], indirect=True)
def test_a_file_that_another_table_holds_stays_until_it_is_let_go(
    users_of_files: Table, spool_of: SpoolOf, blobs: Blobs
) -> None:
    held, free = keep(spool_of, b"held", past=True), keep(spool_of, b"free", past=True)
    with transaction() as session:
        session.execute(insert(users_of_files).values(file_id=held.id))
        session.execute(insert(users_of_files).values(file_id=None))
    assert run_expire() == Freed(1, 4)
    assert keys(blobs) == {held.key} != {free.key}
    with transaction() as session:
        session.execute(delete(users_of_files))
    assert run_expire() == Freed(1, 4)
    assert keys(blobs) == set()


@pytest.mark.parametrize("users_of_files", ["RESTRICT"], indirect=True)
def test_a_hold_taken_at_the_last_moment_stands(
    users_of_files: Table, spool_of: SpoolOf, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, free = keep(spool_of, b"held", past=True), keep(spool_of, b"free", BOB, past=True)
    with transaction() as session:
        session.execute(insert(users_of_files).values(file_id=held.id))
    monkeypatch.setattr(sweeping, "_held_by_none", list)
    assert run_expire() == Freed(1, 4)
    assert keys(blobs) == {held.key} != {free.key}


@pytest.mark.parametrize("users_of_files", ["SET NULL"], indirect=True)
def test_a_reference_that_says_set_null_lets_go(users_of_files: Table, spool_of: SpoolOf) -> None:
    file = keep(spool_of, b"x", past=True)
    with transaction() as session:
        session.execute(insert(users_of_files).values(file_id=file.id))
    assert run_expire() == Freed(1, 1)
    assert db.session().scalars(select(users_of_files.c.file_id)).all() == [None]


def test_the_same_content_stored_between_row_and_blob_keeps_its_blob(
    spool_of: SpoolOf, blobs: Blobs
) -> None:
    old = keep(spool_of, b"again", past=True)
    fresh: list[StoredFile] = []
    with transaction() as session:
        # Runs after the row's removal is committed, and before its blob's turn.
        after_commit(session, lambda: fresh.append(keep(spool_of, b"again", past=False)))
        expire(session, utc_now())
    assert fresh[0].id != old.id
    assert b"".join(open_range(fresh[0])) == b"again"


def test_a_blob_swept_between_placing_and_storing_is_put_again(
    spool_of: SpoolOf, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_of(b"placed")
    place(db.session(), ALICE, spool)
    monkeypatch.setattr(sweeping, "sweep_spools", lambda *_: [])
    assert run_sweep(AT_ONCE) == Freed(1, 6)
    assert keys(blobs) == set()
    with transaction() as session:
        file = store_spooled(session, ALICE, spool, "text/plain", expires_at=None)
    assert b"".join(open_range(file)) == b"placed"


def test_storing_and_expiring_at_once_never_leave_a_row_without_its_blob(
    app: Flask, blobs: Blobs
) -> None:
    stop = threading.Event()
    failures: list[Exception] = []

    def clean_up() -> None:
        with app.app_context():
            try:
                while not stop.is_set():
                    run_expire()
            except Exception as error:  # noqa: BLE001 - told to the test's own thread
                failures.append(error)

    def upload() -> None:
        with app.app_context():
            try:
                for _ in range(25):
                    store_once()
            except Exception as error:  # noqa: BLE001 - told to the test's own thread
                failures.append(error)

    def store_once() -> None:
        with open_spool() as spool:
            spool.write(b"contended")
            past = utc_now() - HOUR
            with transaction() as session:
                file = store_spooled(session, ALICE, spool, "text/plain", expires_at=past)
                assert b"".join(open_range(file)) == b"contended"

    uploads = [threading.Thread(target=upload) for _ in range(3)]
    cleaner = threading.Thread(target=clean_up)
    for thread in (cleaner, *uploads):
        thread.start()
    for thread in uploads:
        thread.join()
    stop.set()
    cleaner.join()
    assert failures == []
    rows = db.session().scalars(select(StoredFile)).all()
    assert {row.key for row in rows} == keys(blobs)


def test_a_blob_whose_row_was_never_committed_is_swept_by_age(
    spool_of: SpoolOf, blobs: Blobs
) -> None:
    kept = keep(spool_of, b"kept", past=False)
    with suppress(Crash), spool_of(b"lost") as spool, transaction() as session:
        store_spooled(session, ALICE, spool, "text/plain", expires_at=None)
        raise Crash
    assert len(keys(blobs)) == 2
    assert run_sweep(HOUR) == Freed(), "it may be an upload under way"
    assert len(keys(blobs)) == 2
    _make_old(blobs)
    assert run_sweep(HOUR) == Freed(1, 4)
    assert keys(blobs) == {kept.key}


def test_what_a_broken_put_left_is_swept(spool_of: SpoolOf, blobs: Blobs, app: Flask) -> None:
    kept = keep(spool_of, b"kept", past=False)
    root = app.config["SLUICE"].data_dir / "blobs"
    (root / f"{kept.key}.0123456789abcdef").write_bytes(b"half")
    _make_old(blobs)
    assert run_sweep(HOUR) == Freed(1, 4)
    assert keys(blobs) == {kept.key}


def test_what_this_application_did_not_put_is_left_alone(
    blobs: Blobs, app: Flask, tmp_path: Path
) -> None:
    strangers = {"backup.sql", "1/ab/short", "x/ab/" + "ab" * 32, "1/ff/" + "ab" * 32}
    for key in strangers:
        (tmp_path / "source").write_bytes(b"x")
        blobs.put(key, tmp_path / "source")
    assert run_sweep(AT_ONCE) == Freed()
    assert keys(blobs) == strangers


def test_the_blobs_of_a_deleted_owner_are_swept(spool_of: SpoolOf, blobs: Blobs) -> None:
    keep(spool_of, b"hers", past=False)
    his = keep(spool_of, b"his", BOB, past=False)
    with transaction() as session:
        session.execute(delete(User).where(User.id == ALICE))
    _make_old(blobs)
    assert run_sweep(HOUR) == Freed(1, 4)
    assert keys(blobs) == {his.key}


def test_uploads_that_broke_off_are_swept(app: Flask, uploads: Path, spool_of: SpoolOf) -> None:
    under_way = spool_of(b"under way")
    left = uploads / "upload-left"
    left.write_bytes(b"left")
    os.utime(left, (0, 0))
    assert run_sweep(HOUR) == Freed(1, 4)
    assert list(uploads.iterdir()) == [under_way.path]


def test_more_orphans_than_one_batch_all_go(
    blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "KEYS_AT_ONCE", 2)
    (tmp_path / "source").write_bytes(b"x")
    for owner_id in (ALICE, BOB):
        for number in range(5):
            blobs.put(blob_key(owner_id, f"{number:064x}"), tmp_path / "source")
    assert run_sweep(AT_ONCE) == Freed(10, 10)
    assert keys(blobs) == set()


def test_a_store_out_of_reach_leaves_the_blobs_to_the_next_sweep(
    spool_of: SpoolOf, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(spool_of, b"x", past=True)

    def out_of_reach(*_: object) -> None:
        raise Unavailable("out of reach")

    with monkeypatch.context() as patch:
        patch.setattr(FolderBlobs, "delete", out_of_reach)
        assert run_expire() == Freed(1, 1)
    assert len(keys(blobs)) == 1
    _make_old(blobs)
    assert run_sweep(HOUR) == Freed(1, 1)
    assert keys(blobs) == set()


def _make_old(blobs: Blobs) -> None:
    assert isinstance(blobs, FolderBlobs)
    for path in blobs._root.rglob("*"):
        if path.is_file():
            os.utime(path, (0, 0))
