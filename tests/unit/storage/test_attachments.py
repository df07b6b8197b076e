"""Unpacking what is attached to PDFs: all of it or a refusal, in a process with limits."""

import io
from collections.abc import Iterator
from pathlib import Path

import pikepdf
import pytest

from backend.storage.attachments import MOST_DEPTH, UNPACKED_BYTES, Unpacker, Unreadable, unpacked


@pytest.fixture
def unpacker() -> Iterator[Unpacker]:
    with Unpacker() as unpacker:
        yield unpacker


def attached(*contents: bytes, password: str = "") -> bytes:
    made = io.BytesIO()
    with pikepdf.new() as pdf:
        pdf.add_blank_page()
        for number, content in enumerate(contents):
            pdf.attachments[f"{number}.bin"] = pikepdf.AttachedFileSpec(pdf, content)
        pdf.save(
            made, encryption=pikepdf.Encryption(user=password, owner="owner") if password else False
        )
    return made.getvalue()


@pytest.fixture
def bomb() -> bytes:
    return attached(bytes(UNPACKED_BYTES + 1))


def stored(folder: Path, content: bytes) -> Path:
    path = folder / "a.pdf"
    path.write_bytes(content)
    return path


def read(unpacker: Unpacker, path: Path, password: str | None = None) -> list[bytes]:
    return [b"".join(chunks) for chunks in unpacker.attachments(path, password)]


def test_each_attachment_is_given_once(unpacker: Unpacker, tmp_path: Path) -> None:
    large = bytes(range(256)) * 4000
    path = stored(tmp_path, attached(b"one", b"", large))
    assert sorted(read(unpacker, path)) == sorted([b"one", b"", large])


def test_what_is_left_unread_is_passed_over(unpacker: Unpacker, tmp_path: Path) -> None:
    path = stored(tmp_path, attached(b"one", b"two"))
    assert sum(1 for _ in unpacker.attachments(path)) == 2
    assert sorted(read(unpacker, path)) == [b"one", b"two"]


def test_a_password_opens(unpacker: Unpacker, tmp_path: Path) -> None:
    path = stored(tmp_path, attached(b"one", password="sesame"))
    assert read(unpacker, path) == []
    assert read(unpacker, path, "another") == []
    assert read(unpacker, path, "sesame") == [b"one"]


@pytest.mark.parametrize("content", [b"", b"plain text", b"%PDF-1.7 and nothing else"])
def test_what_cannot_be_opened_has_none(unpacker: Unpacker, tmp_path: Path, content: bytes) -> None:
    assert read(unpacker, stored(tmp_path, content)) == []


def test_more_than_the_limit_is_refused_and_the_next_is_read(
    unpacker: Unpacker, tmp_path: Path, bomb: bytes
) -> None:
    with pytest.raises(Unreadable):
        read(unpacker, stored(tmp_path, bomb))
    assert read(unpacker, stored(tmp_path, attached(b"one"))) == [b"one"]


def test_too_many_in_each_other_are_refused() -> None:
    content = b"innermost"
    for _ in range(MOST_DEPTH + 1):
        content = attached(content)
    assert b"innermost" in unpacked(io.BytesIO(content), "")
    with pytest.raises(Unreadable):
        list(unpacked(io.BytesIO(attached(content)), ""))


def test_a_process_that_was_killed_is_a_refusal(unpacker: Unpacker, tmp_path: Path) -> None:
    path = stored(tmp_path, attached(b"one"))
    assert read(unpacker, path) == [b"one"]
    assert unpacker._process
    unpacker._process.kill()
    with pytest.raises(Unreadable):
        read(unpacker, path)
