"""Contents are kept once per owner, within limits, for as long as somebody wants them."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from backend.clock import utc_now
from backend.db import db, transaction
from backend.errors import AppError, Gone, NotFound, TooLarge
from backend.storage import services
from backend.storage.blobs import Blobs
from backend.storage.models import StoredFile
from backend.storage.services import (
    fetch,
    keep_until,
    open_range,
    open_spool,
    owned,
    place,
    release,
    store_path,
    store_spooled,
    usage,
)
from tests.unit.storage.conftest import ALICE, BOB, SpoolOf

SOON = datetime(2030, 1, 1, tzinfo=UTC)
LATER = SOON + timedelta(days=7)


def keep(
    spool_of: SpoolOf,
    content: bytes,
    owner_id: int = ALICE,
    media_type: str = "application/pdf",
    expires_at: datetime | None = SOON,
) -> StoredFile:
    with transaction() as session:
        return store_spooled(
            session, owner_id, spool_of(content), media_type, expires_at=expires_at
        )


def count_rows() -> int:
    return db.session().scalar(select(func.count()).select_from(StoredFile)) or 0


def test_a_stored_file_can_be_read(spool_of: SpoolOf, tmp_path: Path) -> None:
    file = keep(spool_of, b"0123456789")
    assert file.size_bytes == 10
    assert file.sha256 == hashlib.sha256(b"0123456789").hexdigest()
    assert file.media_type == "application/pdf"
    assert file.expires_at == SOON
    assert b"".join(open_range(file)) == b"0123456789"
    assert b"".join(open_range(file, 2, 5)) == b"234"
    fetch(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"


def test_the_same_content_of_one_owner_is_one_file(spool_of: SpoolOf, blobs: Blobs) -> None:
    first, second = keep(spool_of, b"same"), keep(spool_of, b"same")
    assert first.id == second.id
    assert usage(db.session(), ALICE) == blobs.total_bytes() == 4


def test_two_owners_of_one_content_are_separate(spool_of: SpoolOf, blobs: Blobs) -> None:
    hers, his = keep(spool_of, b"same", ALICE), keep(spool_of, b"same", BOB)
    assert hers.id != his.id
    assert {blob.key for blob in blobs.list()} == {hers.key, his.key}
    blobs.delete([hers.key])
    assert b"".join(open_range(his)) == b"same"


def test_storing_again_keeps_for_longer_never_shorter(spool_of: SpoolOf) -> None:
    assert keep(spool_of, b"x", expires_at=LATER).expires_at == LATER
    assert keep(spool_of, b"x", expires_at=SOON).expires_at == LATER
    assert keep(spool_of, b"x", expires_at=None).expires_at is None
    assert keep(spool_of, b"x", expires_at=SOON).expires_at is None


def test_a_lost_blob_comes_back_with_the_next_upload(spool_of: SpoolOf, blobs: Blobs) -> None:
    file = keep(spool_of, b"x")
    blobs.delete([file.key])
    with pytest.raises(Gone):
        open_range(file)
    keep(spool_of, b"x")
    assert b"".join(open_range(file)) == b"x"


@pytest.mark.parametrize(
    "sent", ["", "pdf", "text/html; charset=utf-8", "text/x\r\nSet-Cookie: a=b", "a/" + "b" * 200]
)
def test_a_media_type_that_is_none_is_not_kept(spool_of: SpoolOf, sent: str) -> None:
    assert keep(spool_of, b"x", media_type=sent).media_type == "application/octet-stream"


def test_the_path_of_a_blob_is_made_of_owner_and_content(
    spool_of: SpoolOf, blobs: Blobs, app: Flask
) -> None:
    file = keep(spool_of, b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    root = app.config["SLUICE"].data_dir / "blobs"
    assert [path for path in root.rglob("*") if path.is_file()] == [
        root / str(ALICE) / digest[:2] / digest
    ]
    assert not any("name" in column.key for column in StoredFile.__table__.columns)
    assert file.key == f"{ALICE}/{digest[:2]}/{digest}"


@pytest.mark.parametrize("own_settings", [{"max_file_bytes": 10}])
def test_a_file_over_the_limit_is_refused(spool_of: SpoolOf, tmp_path: Path) -> None:
    keep(spool_of, b"x" * 10)
    with pytest.raises(TooLarge, match=r"at most 10 bytes; this one has at least 11\."):
        spool_of(b"x" * 11)
    (tmp_path / "result").write_bytes(b"x" * 11)
    with (
        pytest.raises(TooLarge, match=r"at most 10 bytes; this one has 11\."),
        transaction() as session,
    ):
        store_path(session, ALICE, tmp_path / "result", "text/plain", expires_at=None)


@pytest.mark.parametrize("own_settings", [{"max_owner_bytes": 10}])
def test_an_owner_over_the_total_is_refused_with_the_sums(spool_of: SpoolOf, blobs: Blobs) -> None:
    keep(spool_of, b"seven77")
    with pytest.raises(TooLarge, match=r"at most 10 bytes together; 7 are used, .* has 4\.") as no:
        keep(spool_of, b"four")
    assert no.value.status == 413
    assert blobs.total_bytes() == 7, "nothing of a refused file is left"
    keep(spool_of, b"seven77")
    keep(spool_of, b"3!!")
    keep(spool_of, b"four", BOB)


@pytest.mark.parametrize("own_settings", [{"max_owner_bytes": 10}])
def test_the_total_holds_under_requests_at_once(app: Flask) -> None:
    def one(number: int) -> bool:
        with app.app_context(), open_spool() as spool:
            spool.write(b"%04d" % number)
            try:
                with transaction() as session:
                    store_spooled(session, ALICE, spool, "text/plain", expires_at=None)
            except TooLarge:
                return False
            return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(one, range(8))) == 2
    assert usage(db.session(), ALICE) == 8


def test_requests_at_once_with_one_content_all_succeed(app: Flask, blobs: Blobs) -> None:
    together = threading.Barrier(8)

    def one(_: int) -> int:
        with app.app_context(), open_spool() as spool:
            spool.write(b"the same")
            together.wait(timeout=30)
            with transaction() as session:
                return store_spooled(session, ALICE, spool, "text/plain", expires_at=None).id

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(one, range(8)))) == 1
    assert count_rows() == 1
    assert blobs.total_bytes() == 8


def test_the_blob_is_there_before_the_row(
    spool_of: SpoolOf, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(services, "StoredFile", crash)
    monkeypatch.setattr(services, "_find", lambda *_: None)
    monkeypatch.setattr(services, "usage", lambda *_: 0)
    with pytest.raises(KeyboardInterrupt):
        keep(spool_of, b"x")
    assert blobs.total_bytes() == 1
    assert count_rows() == 0


def test_what_was_placed_ahead_is_not_put_again(
    spool_of: SpoolOf, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = spool_of(b"large")
    place(db.session(), ALICE, spool)
    monkeypatch.setattr(type(blobs), "put", None)
    with transaction() as session:
        file = store_spooled(session, ALICE, spool, "text/plain", expires_at=None)
    assert b"".join(open_range(file)) == b"large"


def test_a_worker_may_go_on_writing_to_a_file_that_it_has_stored(
    app: Flask, tmp_path: Path, uploads: Path
) -> None:
    result = tmp_path / "result"
    result.write_bytes(b"result")
    with transaction() as session:
        file = store_path(session, ALICE, result, "text/plain", expires_at=SOON)
    with result.open("r+b") as again:
        again.write(b"RESULT")
    assert b"".join(open_range(file)) == b"result"
    assert list(uploads.iterdir()) == []


def test_anothers_file_is_not_found(spool_of: SpoolOf) -> None:
    file = keep(spool_of, b"x")
    assert owned(db.session(), ALICE, file.id) is file
    for owner_id, file_id in ((BOB, file.id), (ALICE, file.id + 1), (ALICE, -1), (ALICE, 10**30)):
        with pytest.raises(NotFound, match=f"There is no file {file_id}"):
            owned(db.session(), owner_id, file_id)


def test_usage_is_the_sum_of_an_owners_files(spool_of: SpoolOf) -> None:
    assert usage(db.session(), ALICE) == 0
    keep(spool_of, b"123")
    keep(spool_of, b"4567")
    keep(spool_of, b"his", BOB)
    assert usage(db.session(), ALICE) == 7


def test_keeping_only_lengthens(spool_of: SpoolOf) -> None:
    file = keep(spool_of, b"x")
    for when, then in ((LATER, LATER), (SOON, LATER), (None, None), (SOON, None)):
        with transaction() as session:
            keep_until(session, file, when)
        assert file.expires_at == then


def test_releasing_ends_a_keeping_for_good_and_shortens_no_other(spool_of: SpoolOf) -> None:
    file = keep(spool_of, b"x", expires_at=None)
    for when, then in ((SOON, SOON), (LATER, LATER), (SOON, LATER)):
        with transaction() as session:
            release(session, file, when)
        assert file.expires_at == then


@pytest.mark.parametrize("act", [keep_until, release])
def test_a_file_that_was_removed_meanwhile_is_gone(spool_of: SpoolOf, act: object) -> None:
    file = keep(spool_of, b"x")
    with transaction() as session:
        session.delete(file)
    error: type[AppError] = Gone
    with pytest.raises(error), transaction() as session:
        act(session, file, utc_now())  # type: ignore[operator]


def test_an_empty_file_is_a_file(spool_of: SpoolOf) -> None:
    assert b"".join(open_range(keep(spool_of, b""))) == b""
