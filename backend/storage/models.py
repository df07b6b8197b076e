"""A stored file: content that an owner has, once, whatever it is called."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.db import Base


class StoredFile(Base):
    """Content under its SHA-256. Names belong to what uses it; without `expires_at` it is kept."""

    __tablename__ = "stored_files"
    __table_args__ = (UniqueConstraint("owner_id", "sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None] = mapped_column(index=True)

    @property
    def key(self) -> str:
        """Where the content lies in the blob store."""
        return blob_key(self.owner_id, self.sha256)


def blob_key(owner_id: int, sha256: str) -> str:
    """The place of content: made of numbers and hex digits alone, never of a name."""
    return f"{owner_id}/{sha256[:2]}/{sha256}"
