"""What every blob store promises; each test runs on each store."""

import hashlib
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from backend.clock import utc_now
from backend.config import MIB
from backend.errors import Gone, Unavailable
from backend.storage.blobs import CHUNK_BYTES, PART_BYTES, Blobs
from backend.storage.models import blob_key

KEY = blob_key(1, "ab" * 32)
OTHER = blob_key(2, "cd" * 32)


@pytest.fixture
def put(blobs: Blobs, tmp_path: Path) -> Callable[..., None]:
    def put(content: bytes, key: str = KEY) -> None:
        source = tmp_path / "source"
        source.write_bytes(content)
        blobs.put(key, source)
        source.unlink()

    return put


def read(blobs: Blobs, *where: int | None) -> bytes:
    return b"".join(blobs.read(KEY, *where))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 1000, PART_BYTES, PART_BYTES + 1, 2 * CHUNK_BYTES + 7])
def test_what_is_put_is_read_back(blobs: Blobs, put: Callable[..., None], size: int) -> None:
    content = os.urandom(size)
    put(content)
    assert read(blobs) == content


def test_a_range_is_read_from_start_up_to_end(blobs: Blobs, put: Callable[..., None]) -> None:
    put(b"0123456789")
    assert read(blobs, 3) == b"3456789"
    assert read(blobs, 3, 5) == b"34"
    assert read(blobs, 8, 100) == b"89"
    assert read(blobs, 4, 4) == b""
    assert read(blobs, 10) == b""
    assert read(blobs, 50, 60) == b""


def test_a_range_may_span_chunks(blobs: Blobs, put: Callable[..., None]) -> None:
    content = os.urandom(2 * CHUNK_BYTES + 100)
    put(content)
    assert (
        read(blobs, CHUNK_BYTES - 5, 2 * CHUNK_BYTES + 5)
        == (content[CHUNK_BYTES - 5 : 2 * CHUNK_BYTES + 5])
    )


def test_a_put_replaces(blobs: Blobs, put: Callable[..., None]) -> None:
    put(b"first, and longer")
    put(b"second")
    assert read(blobs) == b"second"


def test_it_is_fetched_to_a_private_file(
    blobs: Blobs, put: Callable[..., None], tmp_path: Path
) -> None:
    content = os.urandom(CHUNK_BYTES + 1)
    put(content)
    target = tmp_path / "target"
    target.write_bytes(b"what was there before, open to all")
    target.chmod(0o644)
    blobs.fetch(KEY, target)
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o777 == 0o600


def test_changing_what_was_fetched_does_not_change_the_blob(
    blobs: Blobs, put: Callable[..., None], tmp_path: Path
) -> None:
    put(b"blob")
    blobs.fetch(KEY, tmp_path / "target")
    with (tmp_path / "target").open("r+b") as file:
        file.write(b"BLOB")
    assert read(blobs) == b"blob"


def test_a_missing_blob_is_gone_at_once(blobs: Blobs, tmp_path: Path) -> None:
    assert not blobs.exists(KEY)
    assert blobs.find(KEY) is None
    with pytest.raises(Gone):
        blobs.read(KEY)
    with pytest.raises(Gone):
        blobs.fetch(KEY, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_blob_deleted_while_it_is_read_is_gone(blobs: Blobs, put: Callable[..., None]) -> None:
    put(bytes(2 * CHUNK_BYTES))
    chunks = blobs.read(KEY)
    next(chunks)
    blobs.delete([KEY])
    with pytest.raises(Gone):
        next(chunks)


def test_find_knows_size_and_time(blobs: Blobs, put: Callable[..., None]) -> None:
    put(b"12345")
    blob = blobs.find(KEY)
    assert blob is not None
    assert blobs.exists(KEY)
    assert (blob.key, blob.size_bytes) == (KEY, 5)
    assert abs(utc_now() - blob.modified) < timedelta(seconds=30)


def test_the_time_is_that_of_the_put(blobs: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"an old file")
    os.utime(source, (0, 0))
    blobs.put(KEY, source)
    blob = blobs.find(KEY)
    assert blob is not None
    assert abs(utc_now() - blob.modified) < timedelta(seconds=30)


def test_many_are_deleted_also_those_that_are_not_there(
    blobs: Blobs, put: Callable[..., None]
) -> None:
    several = [blob_key(1, f"{number:064x}") for number in range(25)]
    for key in several[::2]:
        put(b"x", key)
    put(b"stays", OTHER)
    blobs.delete(key for key in several)
    assert [blob.key for blob in blobs.list()] == [OTHER]
    blobs.delete([])


def test_all_are_listed_with_their_sizes(blobs: Blobs, put: Callable[..., None]) -> None:
    assert list(blobs.list()) == []
    assert blobs.total_bytes() == 0
    put(b"123")
    put(b"4567", OTHER)
    assert {(blob.key, blob.size_bytes) for blob in blobs.list()} == {(KEY, 3), (OTHER, 4)}
    assert all(abs(utc_now() - blob.modified) < timedelta(seconds=30) for blob in blobs.list())
    assert blobs.total_bytes() == 7


def test_a_large_blob_is_never_whole_in_memory(blobs: Blobs, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    piece = os.urandom(MIB)
    with source.open("wb") as file:
        for _ in range(128):
            file.write(piece)
    before = _reset_peak()
    blobs.put(KEY, source)
    digest = hashlib.sha256()
    for chunk in blobs.read(KEY):
        digest.update(chunk)
    blobs.fetch(KEY, target)
    assert _peak() - before < 64 * MIB
    assert target.stat().st_size == 128 * MIB
    with source.open("rb") as file:
        assert digest.digest() == hashlib.file_digest(file, "sha256").digest()


def _reset_peak() -> int:
    """Let the kernel forget this process's peak of resident memory; return what it uses now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    return int(line.split()[1]) * 1024


def test_a_store_out_of_reach_is_unavailable(unreachable: Blobs, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    acts: list[Callable[[], object]] = [
        lambda: unreachable.put(KEY, source),
        lambda: unreachable.exists(KEY),
        lambda: unreachable.read(KEY),
        lambda: unreachable.fetch(KEY, tmp_path / "target"),
        lambda: unreachable.delete([KEY]),
        lambda: list(unreachable.list()),
    ]
    for act in acts:
        with pytest.raises(Unavailable, match="cannot be reached"):
            act()
