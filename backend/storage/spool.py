"""Uploads on their way in: streamed to a temporary file, counted and hashed as they arrive."""

import binascii
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from backend.errors import InvalidInput, TooLarge, Unavailable
from backend.http.bodies import LongText
from backend.storage.private import private_folder

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

T = TypeVar("T")

PREFIX = "upload-"
SHOWN_NAME_LENGTH = 100


class Spool(io.BufferedIOBase):
    """A temporary file of mode 0600 that is first written, then read, and deleted on close.

    Bytes over the limit raise TooLarge. The first seek or read seals the spool: what was hashed
    is then what stands in the file, for good. A sealed spool holds no descriptor, because a
    request may have a thousand of them. It is closed when nothing refers to it any more; after a
    crash `sweep_spools` removes the file.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        super().__init__()
        with _room():
            # mkstemp's files have mode 0600, whatever the umask.
            self._descriptor, path = tempfile.mkstemp(prefix=PREFIX, dir=private_folder(folder))
        self.path = Path(path)
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._hash = hashlib.sha256()
        self._position = 0  # of the next read
        # The descriptor is closed by `_let_go` alone, so that a spool that is collected as part
        # of a cycle gives no warning of an unclosed file.
        self._file: IO[bytes] | None = open(self._descriptor, "wb", closefd=False)  # noqa: SIM115 - as said

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was written so far, in 64 hexadecimal digits."""
        return self._hash.hexdigest()

    def readable(self) -> bool:
        """Say yes."""
        return True

    def writable(self) -> bool:
        """Say whether the spool is still open to more."""
        return self._file is not None

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def write(self, chunk: "ReadableBuffer", /) -> int:
        """Append the bytes; raise TooLarge, and append nothing, when that would be too many."""
        if self._file is None:
            raise io.UnsupportedOperation("this spool has been read from and takes no more bytes")
        size = memoryview(chunk).nbytes
        check_size(self.size_bytes + size, self.limit_bytes, at_least=True)
        with _room():
            self._file.write(chunk)
        self._hash.update(chunk)
        self.size_bytes += size
        return size

    def seal(self) -> None:
        """Take no more bytes, and make those written readable through `path`."""
        if self._file is not None:
            with _room():
                self._file.flush()
            self._let_go()

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to this many bytes, or all that are left."""
        return self._read(lambda file: file.read(-1 if size is None else size))

    def read1(self, size: int = -1, /) -> bytes:
        """Return up to this many bytes with one read of the file at most."""
        return self._read(lambda file: file.read1(size))

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill the buffer as far as there are bytes; return how many there were."""
        return self._read(lambda file: file.readinto(buffer))

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return the bytes up to the end of the line."""
        return self._read(lambda file: file.readline(-1 if size is None else size))

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position."""
        self.seal()
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size_bytes}
        self._position = max(0, start[whence] + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position if self._file is None else self.size_bytes

    def close(self) -> None:
        """Delete the file."""
        if self.closed:
            return
        self._let_go()
        self.path.unlink(missing_ok=True)
        super().close()

    def _read(self, take: Callable[[io.BufferedReader], T]) -> T:
        self.seal()
        if self.closed:
            raise ValueError("this spool is closed")
        with self.path.open("rb") as file:
            file.seek(self._position)
            taken = take(file)
            self._position = file.tell()
        return taken

    def _let_go(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what could not be written is thrown away with the rest
                self._file.close()
            os.close(self._descriptor)
            self._file = None


def check_size(size_bytes: int, limit_bytes: int, *, at_least: bool = False) -> None:
    """Raise TooLarge when a file of this size, or of at least this size, is over the limit."""
    if size_bytes > limit_bytes:
        asked = f"at least {size_bytes}" if at_least else str(size_bytes)
        raise TooLarge(
            f"A file may have at most {limit_bytes} bytes; this one has {asked}.",
            code="file_too_large",
        )


def write_base64(spool: Spool, text: LongText, name: str) -> None:
    """Decode base64 (RFC 4648, section 4) into the spool, a piece at a time.

    Line breaks, the URL-safe alphabet and missing padding raise InvalidInput with the entry's
    name.
    """
    check_size(text.size_bytes // 4 * 3 - text.ends().count(b"="), spool.limit_bytes)
    is_padded = False
    for piece in text.pieces():
        if is_padded or len(piece) % 4:
            raise _not_base64(name)
        spool.write(_decoded(piece, name))
        is_padded = piece.endswith(b"=")


def _decoded(piece: bytes, name: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(piece, strict_mode=True)
    except ValueError:
        raise _not_base64(name) from None
    # What binascii lets pass: too much padding.
    if len(decoded) != len(piece) // 4 * 3 - piece.count(b"="):
        raise _not_base64(name)
    return decoded


def sweep_spools(folder: Path, before: datetime) -> list[int]:
    """Delete spools last written before this time, left by a crash; return their sizes."""
    sizes: list[int] = []
    for path in folder.glob(f"{PREFIX}*"):
        with suppress(FileNotFoundError):  # its owner has just closed it
            entry = path.stat()
            if entry.st_mtime < before.timestamp():
                path.unlink()
                sizes.append(entry.st_size)
    return sizes


def _not_base64(name: str) -> InvalidInput:
    return InvalidInput(
        f"The content of {name[:SHOWN_NAME_LENGTH]!r} is not base64: it must be of the letters"
        " A-Z a-z 0-9 + and /, padded with = to a multiple of four, without line breaks.",
        code="invalid_base64",
        fields={name: ["Not base64."]},
    )


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            "There is no room for uploads just now. Try again in a moment."
        ) from error
