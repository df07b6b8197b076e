"""The files that are attached to PDFs, unpacked by a process of its own.

ClamAV's own reader of PDFs misses some: where a checksum in hexadecimal stands in `/Params` and
`/Filter` comes after it, as qpdf writes it, it scans the packed bytes alone (clamd 1.4.6).

To read a stranger's PDF can take all memory, so a process does it that has limits, and nothing of
ours but what it is told. This file is its program as well: it imports nothing of the application.

A request is a line of JSON, `[path, password]`. The answer is, for each attachment, its length in
eight bytes and its content; then END, or FAILED.
"""

import io
import json
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Self, cast

if TYPE_CHECKING:
    from pikepdf import Object, Pdf, Stream

MIB = 2**20
CHUNK_BYTES = 256 * 1024
HEADER_WITHIN = 1024  # bytes: where readers look for %PDF-
MEMORY_BYTES = 2048 * MIB
UNPACKED_BYTES = 512 * MIB  # of all attachments of one PDF
CPU_SECONDS = 60  # for one PDF
MOST_DEPTH = 8  # of PDFs that are attached to PDFs
LENGTH = struct.Struct("!q")
END, FAILED = -1, -2


class Unreadable(Exception):
    """The attachments of a PDF are damaged, or more than can be unpacked."""


class Unpacker:
    """A process that unpacks the attachments of one PDF after the other."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def attachments(self, path: Path, password: str | None = None) -> Iterator[Iterator[bytes]]:
        """Yield each attachment of a file as chunks, to be read before the next is asked for.

        There are none where the file is no PDF, or cannot be opened with the password. Raises
        Unreadable.
        """
        with path.open("rb") as file:
            if b"%PDF-" not in file.read(HEADER_WITHIN):
                return
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - this file
                [sys.executable, "-I", __file__],
                env={},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        asked = cast("IO[bytes]", self._process.stdin)
        told = cast("IO[bytes]", self._process.stdout)
        try:
            asked.write(json.dumps([str(path.resolve()), password or ""]).encode() + b"\n")
            asked.flush()
        except BrokenPipeError:
            raise Unreadable from None
        while (length := LENGTH.unpack(_exactly(told, LENGTH.size))[0]) >= 0:
            chunks = _chunks(told, length)
            yield chunks
            for _ in chunks:
                """What the caller has left; the next attachment comes after it."""
        if length == FAILED:
            raise Unreadable


def _chunks(file: IO[bytes], length: int) -> Iterator[bytes]:
    for start in range(0, length, CHUNK_BYTES):
        yield _exactly(file, min(CHUNK_BYTES, length - start))


def _exactly(file: IO[bytes], length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:  # the process was killed by one of its limits
        raise Unreadable
    return content


# ---------------------------------------------------------------- the process


def serve(asked: IO[bytes], told: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    import pikepdf

    pikepdf.settings.set_qpdf_limits(
        flate_max_memory=UNPACKED_BYTES,
        run_length_max_memory=UNPACKED_BYTES,
        png_max_memory=UNPACKED_BYTES,
        tiff_max_memory=UNPACKED_BYTES,
    )
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    for line in asked:
        path, password = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + CPU_SECONDS)
        end = END
        try:
            for content in _bounded(unpacked(Path(path), password)):
                told.write(LENGTH.pack(len(content)) + content)
        except Exception:  # noqa: BLE001 - whatever it is, what is attached has not been read
            end = FAILED
        told.write(LENGTH.pack(end))
        told.flush()


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _bounded(contents: Iterator[bytes]) -> Iterator[bytes]:
    room = UNPACKED_BYTES
    for content in contents:
        room -= len(content)
        if room < 0:
            raise Unreadable
        yield content


def unpacked(source: Path | BinaryIO, password: str, depth: int = 0) -> Iterator[bytes]:
    """Yield each attachment's content, and those of attached PDFs after them."""
    import pikepdf

    if depth > MOST_DEPTH:
        raise Unreadable
    try:
        pdf = pikepdf.open(source, password=password)
    except pikepdf.PikepdfError:
        return
    with pdf:
        for stream in embedded(pdf):
            content = stream.read_bytes()
            yield content
            if b"%PDF-" in content[:HEADER_WITHIN]:
                yield from unpacked(io.BytesIO(content), password, depth + 1)


def embedded(pdf: "Pdf") -> Iterator["Stream"]:
    """Yield each embedded file stream once (ISO 32000-2, 7.11.4), wherever it hangs."""
    from pikepdf import Name, Object, Stream

    seen = set()
    for thing in pdf.objects:
        if not isinstance(thing, Object):
            continue
        found = list(_specified_in(thing))
        if isinstance(thing, Stream) and thing.get(Name.Type) == Name.EmbeddedFile:
            found.append(thing)
        for stream in found:
            if stream.objgen not in seen:
                seen.add(stream.objgen)
                yield stream


def _specified_in(thing: "Object") -> Iterator["Stream"]:
    """Yield the streams that the file specifications in an indirect object name."""
    from pikepdf import Array, Dictionary, Name, Object, Stream

    top = thing.stream_dict if isinstance(thing, Stream) else thing
    # Most objects hold none, and to look through their text is quicker.
    if b"/EF" not in top.unparse(resolved=True):
        return
    pending: list[Any] = [top]
    while pending:
        inner = pending.pop()
        children: list[Any] = []
        if isinstance(inner, Dictionary):
            children = [child for _, child in inner.items()]
            files = inner.get(Name.EF)
            if isinstance(files, Dictionary):
                yield from (file for _, file in files.items() if isinstance(file, Stream))
        elif isinstance(inner, Array):
            children = list(inner)
        pending += [
            child for child in children if isinstance(child, Object) and not child.is_indirect
        ]


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
