"""Uploads under way: streamed to a temporary file, hashed and measured as they come in."""

import base64
import binascii
import hashlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from backend.errors import InvalidInput, TooLarge

CHUNK = 256 * 1024  # characters of base64 decoded at a time; a multiple of four


class Spool:
    """A file being received. It is gone when closed, unless the blob store took its content."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.path = folder / secrets.token_hex(16)
        made = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: BinaryIO = os.fdopen(made, "w+b")
        self._hash = hashlib.sha256()
        self._limit = limit_bytes
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        """The hash of all that was written, in hex."""
        return self._hash.hexdigest()

    def write(self, chunk: bytes) -> int:
        """Append; raise TooLarge once more than the limit came."""
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit:
            self.close()
            raise TooLarge(
                f"A file has more than {self._limit} bytes, which is the most that is accepted.",
                code="file_too_large",
            )
        self._hash.update(chunk)
        return self._file.write(chunk)

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        return self._file.read(size)

    def readinto(self, buffer: bytearray) -> int:
        """Read on into a buffer."""
        return self._file.readinto(buffer)  # type: ignore[attr-defined,no-any-return]

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether it can be read again: always."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The present place."""
        return self._file.tell()

    def head(self, size: int) -> bytes:
        """The first bytes."""
        self._file.seek(0)
        return self._file.read(size)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def __del__(self) -> None:
        self.close()


def spool_base64(text: str, spool: Spool, field: str) -> None:
    """Decode standard base64 into the spool, a part at a time; InvalidInput names the field."""
    compact = text if "\n" not in text and "\r" not in text else "".join(text.split())
    try:
        for start in range(0, len(compact), CHUNK):
            part = compact[start : start + CHUNK]
            decoded = base64.b64decode(part, validate=True)
            if start + CHUNK < len(compact) and len(decoded) < CHUNK // 4 * 3:
                raise binascii.Error("padding before the end")  # noqa: TRY301 - one refusal for all
            spool.write(decoded)
    except (binascii.Error, ValueError) as error:
        spool.close()
        raise InvalidInput(
            f"{field}: it is not base64 ({error}).",
            code="invalid_base64",
            fields={field: ["Not base64."]},
        ) from None
