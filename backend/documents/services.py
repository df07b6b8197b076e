"""Keeping documents."""

from datetime import timedelta

from flask import current_app
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from backend.clock import utc_now
from backend.config import Settings
from backend.documents.models import Document
from backend.errors import NotFound
from backend.http.pagination import Page, decode_cursor, page_of
from backend.jobs.models import Artifact, JobInput
from backend.storage import services as storage
from backend.storage.spool import Spool


def add(session: Session, owner_id: int, spool: Spool, media_type: str, name: str) -> Document:
    """Keep what was received as a document until it is removed."""
    file = storage.store_spooled(session, owner_id, spool, media_type, expires_at=None)
    document = Document(owner_id=owner_id, file=file, name=name, created_at=utc_now())
    session.add(document)
    session.flush()
    return document


def owned(session: Session, owner_id: int, document_id: int) -> Document:
    """The owner's document; NotFound for an unknown id and for another's alike."""
    query = select(Document).where(Document.id == document_id, Document.owner_id == owner_id)
    found = session.scalars(query).one_or_none()
    if found is None:
        raise NotFound(f"There is no document {document_id}.", code="document_not_found")
    return found


def page(session: Session, owner_id: int, cursor: str | None, limit: int) -> Page[Document]:
    """A page of an owner's documents, the newest first."""
    query = select(Document).where(Document.owner_id == owner_id).order_by(Document.id.desc())
    if cursor:
        (before,) = decode_cursor(cursor, int)
        query = query.where(Document.id < before)
    return page_of(session.scalars(query.limit(limit + 1)).all(), limit, lambda row: [row.id])


def remove(session: Session, document: Document) -> None:
    """Remove a document; its content expires unless something else still has it."""
    file = document.file
    session.delete(document)
    session.flush()
    if session.scalar(select(exists().where(Document.file_id == file.id))):
        return
    # A job that made or reads the same content keeps its own promise of how long it can be had.
    settings: Settings = current_app.config["SLUICE"]
    promises = (
        (Artifact.file_id, settings.artifact_retention_seconds),
        (JobInput.file_id, settings.upload_retention_seconds),
    )
    kept = [
        seconds
        for column, seconds in promises
        if session.scalar(select(exists().where(column == file.id)))
    ]
    storage.release(session, file, utc_now() + timedelta(seconds=max(kept, default=0)))
