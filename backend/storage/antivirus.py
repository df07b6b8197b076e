"""The virus scan of what is sent, by ClamAV's daemon clamd, where CLAMD_URL says how to reach it.

A content is streamed to clamd by its command INSTREAM (man 8 clamd). What cannot be scanned is
refused: nothing gets past a scanner that is away.
"""

import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from backend.errors import InvalidInput, TooLarge, Unavailable
from backend.storage.attachments import Unpacker, Unreadable
from backend.storage.blobs import current_settings
from backend.storage.spool import Spool

log = structlog.get_logger(__name__)

CHUNK_BYTES = 256 * 1024
PORT = 3310
REPLY_SECONDS = 10.0  # for connecting, for PONG, and for taking each chunk
SCAN_SECONDS = (
    150.0  # for the verdict; clamd itself gives a scan up after two minutes (MaxScanTime)
)
MOST_NAMED = 20  # in one sentence; `fields` has all


class Infected(InvalidInput):
    """clamd has found a virus, or what its configuration forbids."""

    code = "infected"


@dataclass(frozen=True, slots=True)
class Received:
    """A file that was sent, and the password that opens it."""

    name: str
    spool: Spool
    password: str | None = None


def is_on() -> bool:
    """Whether what is sent is scanned."""
    return bool(current_settings().clamd_url)


def refuse_infected(files: Mapping[str, Received]) -> None:
    """Scan what was received, by the names of its fields, attachments of PDFs included.

    Raises Infected, which names each infected file and its signature; otherwise as `refuse`.
    """
    if not is_on():
        return
    found = {}
    with Unpacker() as unpacker:
        for field, file in files.items():
            file.spool.seal()
            virus = _find_virus(file.spool.path, file.name, file.password, unpacker)
            if virus:
                found[field] = _finding(file.name, virus)
    if found:
        said = [f"{field}: {sentence}" for field, sentence in found.items()]
        more = f"; and {len(said) - MOST_NAMED} more" if len(said) > MOST_NAMED else ""
        raise Infected(
            f"{'; '.join(said[:MOST_NAMED])}{more};"
            f" {'it was' if len(said) == 1 else 'they were'} refused and nothing was stored.",
            fields={field: [f"{sentence}."] for field, sentence in found.items()},
        )


def scan_stored(path: Path, name: str, password: str | None) -> None:
    """Scan a file that was stored, maybe before there was a scan, or its virus was known.

    Raises Infected, with the name and the signature; TooLarge for what is longer than clamd
    takes; InvalidInput where attachments cannot be unpacked; Unavailable without a verdict.
    """
    if not is_on():
        return
    with Unpacker() as unpacker:
        virus = _find_virus(path, name, password, unpacker)
    if virus:
        raise Infected(f"{_finding(name, virus)}; it was not used.")


def _find_virus(path: Path, name: str, password: str | None, unpacker: Unpacker) -> str | None:
    ping()  # a clamd that hangs is found out in seconds, whereas a verdict may take minutes
    virus = _scan(_chunks(path), name)
    try:
        for attachment in () if virus else unpacker.attachments(path, password):
            virus = virus or _scan(attachment, name)
    except Unreadable:
        raise InvalidInput(
            f"{name} has attachments that cannot be unpacked and scanned for viruses,"
            " so it was refused.",
            code="unscannable",
        ) from None
    return virus


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _scan(chunks: Iterable[bytes], name: str) -> str | None:
    verdict = _ask(b"INSTREAM", chunks).removeprefix("stream: ")
    if verdict == "OK":
        return None
    if verdict.endswith(" FOUND"):
        virus = verdict.removesuffix(" FOUND")
        log.warning("virus_found", virus=virus)
        return virus
    if verdict.startswith("INSTREAM size limit exceeded"):
        raise TooLarge(
            f"{name} is larger than the virus scanner takes, so it was refused;"
            " its operator can raise StreamMaxLength in clamd.conf.",
            code="too_large_to_scan",
        )
    raise _unavailable(verdict)


def _finding(name: str, virus: str) -> str:
    """What was found in a file; a heuristic of clamd's is a suspicion."""
    state = "may be" if virus.startswith("Heuristics.") else "is"
    return f"{name} {state} infected ({virus})"


def ping() -> None:
    """Raise Unavailable unless clamd answers."""
    answer = _ask(b"PING")
    if answer != "PONG":
        raise _unavailable(answer)


def _ask(command: bytes, chunks: Iterable[bytes] | None = None) -> str:
    """What clamd answers to a command, and to what is streamed after it."""
    try:
        with _connect(current_settings().clamd_url) as link:
            link.sendall(b"z" + command + b"\0")
            if chunks is not None:
                # clamd hangs up on what is too long for it, and says so first.
                with suppress(BrokenPipeError, ConnectionResetError):
                    _stream(link, chunks)
                link.settimeout(SCAN_SECONDS)
            return _answer(link)
    except OSError as error:
        raise _unavailable(f"{type(error).__name__}: {error}") from error


def _connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    if parts.scheme == "tcp":
        return socket.create_connection((parts.hostname, parts.port or PORT), REPLY_SECONDS)
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(REPLY_SECONDS)
        link.connect(parts.path)
    except BaseException:
        link.close()
        raise
    return link


def _stream(link: socket.socket, chunks: Iterable[bytes]) -> None:
    """Send chunks, each after its length in four bytes; an empty one is the end."""
    for chunk in chunks:
        link.sendall(struct.pack("!L", len(chunk)) + chunk)
    link.sendall(struct.pack("!L", 0))


def _answer(link: socket.socket) -> str:
    answer = b""
    while not answer.endswith(b"\0"):
        part = link.recv(4096)
        if not part:
            raise ConnectionError("closed without an answer")
        answer += part
    return answer[:-1].decode(errors="replace")


def _unavailable(reason: str) -> Unavailable:
    log.warning("clamd_unavailable", reason=reason)
    return Unavailable(
        "The virus scanner does not answer just now, and nothing is taken in unscanned."
        " Try again in a moment."
    )
