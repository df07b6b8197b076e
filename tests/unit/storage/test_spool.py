"""Uploads are streamed to private temporary files, counted and hashed as they arrive."""

import base64
import gc
import hashlib
import io
import os
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import IO, cast

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from backend.clock import utc_now
from backend.config import MIB
from backend.errors import InvalidInput, TooLarge, Unavailable
from backend.http.bodies import LongText
from backend.storage.spool import Spool, sweep_spools, write_base64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "work" / "uploads"


@pytest.fixture
def spool(folder: Path) -> Iterator[Spool]:
    with Spool(folder, limit_bytes=8 * MIB) as spool:
        yield spool


def test_hash_and_size_are_those_of_what_was_written(spool: Spool) -> None:
    spool.write(b"hello ")
    spool.write(memoryview(b"world"))
    assert spool.size_bytes == 11
    assert spool.sha256 == hashlib.sha256(b"hello world").hexdigest()


def test_it_reads_back_from_anywhere(spool: Spool) -> None:
    spool.write(b"first\nsecond\n")
    assert spool.seek(0) == 0
    assert spool.readline() == b"first\n"
    assert spool.tell() == 6
    assert spool.read(3) == b"sec"
    assert list(spool) == [b"ond\n"]
    spool.seek(-7, os.SEEK_END)
    assert spool.read1() == b"second\n"
    spool.seek(0)
    assert spool.read() == b"first\nsecond\n"
    spool.seek(0)
    buffer = bytearray(5)
    assert spool.readinto(buffer) == 5
    assert buffer == b"first"


def test_once_read_it_takes_no_more_so_the_hash_stays_true(spool: Spool) -> None:
    assert spool.writable()
    spool.write(b"all")
    spool.seek(0)
    assert not spool.writable()
    with pytest.raises(io.UnsupportedOperation):
        spool.write(b"more")
    assert spool.path.read_bytes() == b"all"


def test_over_the_limit_says_the_limit_and_what_was_asked(folder: Path) -> None:
    with Spool(folder, limit_bytes=10) as spool:
        spool.write(b"x" * 10)
        with pytest.raises(TooLarge, match=r"at most 10 bytes; this one has at least 12\."):
            spool.write(b"yy")
        assert spool.size_bytes == 10


def test_files_and_folders_are_private_at_any_umask(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        with Spool(folder, limit_bytes=10) as spool:
            assert spool.path.stat().st_mode & 0o777 == 0o600
            assert folder.stat().st_mode & 0o777 == 0o700
            assert folder.parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


def test_a_sealed_spool_holds_no_descriptor(folder: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    spools = [Spool(folder, limit_bytes=100) for _ in range(20)]
    for spool in spools:
        spool.write(b"one line\nand another")
        spool.seek(0)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    assert [spool.readline() + spool.read() for spool in spools] == [b"one line\nand another"] * 20
    for spool in spools:
        spool.close()


def test_closing_deletes_the_file(folder: Path) -> None:
    spool = Spool(folder, limit_bytes=10)
    spool.write(b"x")
    spool.close()
    spool.close()
    assert spool.closed
    assert list(folder.iterdir()) == []


def test_a_forgotten_spool_deletes_its_file_also_in_a_cycle(folder: Path) -> None:
    spools = [Spool(folder, limit_bytes=10) for _ in range(3)]
    for spool in spools:
        spool.write(b"unflushed")
        spool.__dict__["itself"] = spool
    del spool
    spools.clear()
    gc.collect()
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_unavailable_and_still_closes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    spool = Spool(folder, limit_bytes=10)
    with monkeypatch.context() as patch:
        patch.setattr(spool, "_file", type("Full", (), {"write": full, "flush": full})())
        with pytest.raises(Unavailable, match="no room"):
            spool.write(b"x")
        with pytest.raises(Unavailable, match="no room"):
            spool.seal()
    spool.close()
    assert list(folder.iterdir()) == []


def test_leftovers_of_a_crash_go_by_age(folder: Path) -> None:
    with Spool(folder, limit_bytes=10) as fresh:
        leftover = folder / "upload-left"
        leftover.write_bytes(b"12345")
        an_hour_ago = utc_now() - timedelta(hours=1)
        os.utime(leftover, (0, an_hour_ago.timestamp() - 1))
        (folder / "another's").write_bytes(b"")
        os.utime(folder / "another's", (0, 0))
        assert sweep_spools(folder, an_hour_ago) == [5]
        assert {path.name for path in folder.iterdir()} == {fresh.path.name, "another's"}


def test_sweeping_a_folder_that_is_not_there_removes_nothing(tmp_path: Path) -> None:
    assert sweep_spools(tmp_path / "none", utc_now()) == []


class UploadRequest(Request):
    folder: Path
    limit = 2 * MIB

    def _get_file_stream(self, *_: object, **__: object) -> IO[bytes]:
        return cast(IO[bytes], Spool(self.folder, self.limit))


def upload(folder: Path, content: bytes) -> UploadRequest:
    data = {"file": (io.BytesIO(content), "../../etc/passwd")}
    builder = EnvironBuilder(method="POST", data=data)
    request = UploadRequest(builder.get_environ())
    builder.close()
    request.folder = folder
    return request


def test_werkzeug_streams_a_form_into_it(folder: Path) -> None:
    content = os.urandom(MIB) + b"\r\n--boundary\r\n"
    request = upload(folder, content)
    with request:
        spool = request.files["file"].stream
        assert isinstance(spool, Spool)
        assert spool.path.parent == folder
        assert (spool.size_bytes, spool.sha256) == (
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
        assert spool.read() == content
    request.environ["wsgi.input"].close()
    assert list(folder.iterdir()) == []


def test_a_form_with_a_file_over_the_limit_is_refused_while_it_arrives(folder: Path) -> None:
    request = upload(folder, bytes(3 * MIB))
    with pytest.raises(TooLarge, match=f"at most {2 * MIB} bytes"):
        _ = request.files
    request.environ["wsgi.input"].close()
    del request
    gc.collect()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 2, 3, 786_431, 786_432, 786_433, 2_000_000])
def test_base64_of_any_length_is_decoded(spool: Spool, size: int) -> None:
    content = os.urandom(size)
    write_base64(spool, LongText.of(base64.b64encode(content).decode()), "a.pdf")
    assert spool.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "AAA",
        "AA=",
        "A===",
        "====",
        "AAAA\n",
        "AA AA",
        "AA-_",
        "AA==AAAA",
        "AAAA=",
        "AAAA====",
        "ÄÄÄÄ",
        "data:text/plain;base64,AAAA",
        "A" * (MIB - 2) + "==" + "AAAA",
        "A" * MIB + "AAA",
    ],
)
def test_what_is_not_strictly_base64_is_refused_by_name(spool: Spool, text: str) -> None:
    with pytest.raises(InvalidInput, match=r"The content of 'a\.pdf' is not base64"):
        write_base64(spool, LongText.of(text), "a.pdf")


def test_base64_over_the_limit_is_refused_before_it_is_decoded(folder: Path) -> None:
    with Spool(folder, limit_bytes=10) as spool:
        write_base64(spool, LongText.of(base64.b64encode(bytes(10)).decode()), "a.pdf")
    with Spool(folder, limit_bytes=10) as spool:
        with pytest.raises(TooLarge, match=r"at most 10 bytes; this one has 11\."):
            write_base64(spool, LongText.of(base64.b64encode(bytes(11)).decode()), "a.pdf")
        assert spool.size_bytes == 0


def test_base64_is_never_decoded_whole(folder: Path) -> None:
    text = LongText.of(base64.b64encode(bytes(24 * MIB)).decode())
    tracemalloc.start()
    try:
        with Spool(folder, limit_bytes=32 * MIB) as spool:
            write_base64(spool, text, "a.pdf")
        assert tracemalloc.get_traced_memory()[1] < 6 * MIB
    finally:
        tracemalloc.stop()
