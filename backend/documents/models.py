"""A document: stored content under a name that its owner knows it by."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from backend.db import Base
from backend.storage.models import StoredFile


class Document(Base):
    """A document of an owner; its id is the whole number that clients know as `document_id`."""

    __tablename__ = "documents"
    __table_args__ = (
        Index("ix_documents_owner", "owner_id", "id"),
        # An id is never given out twice: an old link must not lead to another document.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    file_id: Mapped[int] = mapped_column(ForeignKey("stored_files.id"), index=True)
    name: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime]

    file: Mapped[StoredFile] = relationship(lazy="joined")
