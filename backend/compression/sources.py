"""The files of a request, in the two ways in which they come, checked before any is kept."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from backend.compression.schemas import refuse_too_many
from backend.documents import services as documents
from backend.errors import InvalidInput
from backend.storage import services as storage
from backend.storage.antivirus import Received, refuse_infected
from backend.storage.models import StoredFile
from backend.storage.names import checked_name
from backend.storage.spool import Spool, write_base64

PDF = "application/pdf"
HEADER_WITHIN = 1024  # bytes: where readers look for %PDF-


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file to compress: received just now, or a stored document's by its id."""

    name: str
    password: str | None = None
    spool: Spool | None = None
    document_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file to compress, as it lies in the store."""

    name: str
    password: str | None
    file: StoredFile


def from_entries(entries: Sequence[Mapping[str, Any]]) -> list[Source]:
    """The sources of a JSON request: contents in base64 and ids of documents."""
    return _from_entries([(f"files.{number}.", entry) for number, entry in enumerate(entries)])


def from_entry(entry: Mapping[str, Any]) -> Source:
    """The source of a JSON request about one file."""
    return _from_entries([("", entry)])[0]


def _from_entries(entries: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Source]:
    sources: list[Source] = []
    try:
        for prefix, entry in entries:
            sources.append(_from_entry(entry, prefix))
        _check(
            {
                prefix.rstrip(".") or "content": each
                for (prefix, _), each in zip(entries, sources, strict=True)
            }
        )
    except BaseException:
        close(sources)
        raise
    return sources


def _from_entry(entry: Mapping[str, Any], prefix: str) -> Source:
    password = entry.get("password")
    if entry.get("document_id") is not None:
        return Source(name="", document_id=entry["document_id"], password=password)
    name = checked_name(entry["name"], f"{prefix}name")
    spool = storage.open_spool()
    try:
        write_base64(spool, entry["content"], f"{prefix}content")
    except BaseException:
        spool.close()
        raise
    return Source(name=name, spool=spool, password=password)


def from_uploads(uploads: Sequence[Any], passwords: Sequence[str]) -> list[Source]:
    """The sources of a multipart request; one password for all, or one for each file."""
    refuse_too_many(len(uploads))
    if len(passwords) not in {0, 1, len(uploads)}:
        raise InvalidInput(
            f"password: {len(passwords)} were sent for {len(uploads)} files;"
            " send one for all of them, or one for each.",
            fields={"password": ["One for all files, or one for each."]},
        )
    each = [*passwords] if len(passwords) == len(uploads) else [*passwords, None][:1] * len(uploads)
    sources = {
        f"files.{number}": _from_upload(upload, password, f"files.{number}.name")
        for number, (upload, password) in enumerate(zip(uploads, each, strict=True))
    }
    _check(sources)
    return [*sources.values()]


def from_upload(upload: Any, password: str | None) -> Source:
    """The source of a multipart request about one file."""
    source = _from_upload(upload, password, "file")
    _check({"file": source})
    return source


def _from_upload(upload: Any, password: str | None, field: str) -> Source:
    name = checked_name(upload.filename or "", field)
    return Source(name=name, spool=upload.stream, password=password or None)


def _check(sources: Mapping[str, Source]) -> None:
    """Refuse what is infected, all of it, and then the first that is no PDF; by their fields."""
    received = {
        field: Received(source.name, source.spool, source.password)
        for field, source in sources.items()
        if source.spool is not None
    }
    refuse_infected(received)
    for field, file in received.items():
        _check_pdf(file.spool, file.name, field)


def _check_pdf(spool: Spool, name: str, field: str) -> None:
    """Refuse at once what cannot be a PDF; what is damaged inside fails alone, later."""
    if spool.size_bytes == 0:
        raise InvalidInput(
            f"{field}: {name} is empty.", code="empty_file", fields={field: ["It is empty."]}
        )
    spool.seek(0)
    if b"%PDF-" not in spool.read(HEADER_WITHIN):
        raise InvalidInput(
            f"{field}: {name} is not a PDF: it does not begin with %PDF-.",
            code="not_a_pdf",
            fields={field: ["Not a PDF."]},
        )


def spools_of(sources: Iterable[Source]) -> list[Spool]:
    """What was received just now."""
    return [source.spool for source in sources if source.spool is not None]


def store_all(
    session: Session, owner_id: int, sources: Sequence[Source], expires_at: datetime
) -> list[Stored]:
    """Make what was received the owner's, and look up the documents that were named."""
    return [_store(session, owner_id, source, expires_at) for source in sources]


def _store(session: Session, owner_id: int, source: Source, expires_at: datetime) -> Stored:
    if source.spool is not None:
        file = storage.store_spooled(session, owner_id, source.spool, PDF, expires_at=expires_at)
        return Stored(name=source.name, password=source.password, file=file)
    document = documents.owned(session, owner_id, source.document_id or 0)
    return Stored(name=document.name, password=source.password, file=document.file)


@contextmanager
def discarded(sources: Sequence[Source]) -> Any:
    """Remove the temporary files of the sources at the end of the block."""
    try:
        yield sources
    finally:
        close(sources)


def close(sources: Iterable[Source]) -> None:
    """Remove the temporary files of the sources."""
    for source in sources:
        if source.spool is not None:
            source.spool.close()
