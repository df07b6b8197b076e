"""The table of stored files: whose content it is, how large, and until when it is kept."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from backend.clock import utc_now
from backend.db import Base

MAX_MEDIA_TYPE_LENGTH = 255  # type, slash and subtype of 127 characters each (RFC 6838, 4.2)


class StoredFile(Base):
    """A content that an owner keeps; the same content is kept once per owner.

    It has no name: a name belongs to whatever uses the file. `expires_at` is when it may go;
    without one it is kept.
    """

    __tablename__ = "stored_files"
    __table_args__ = (
        UniqueConstraint("owner_id", "sha256"),
        # An id is never given out twice: an old link must not lead to another content.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(MAX_MEDIA_TYPE_LENGTH))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None] = mapped_column(index=True)

    @property
    def key(self) -> str:
        """Where the content is in the blob store."""
        return blob_key(self.owner_id, self.sha256)


def blob_key(owner_id: int, sha256: str) -> str:
    """Return the blob's key: made of the owner and the content alone, never of a name."""
    return f"{owner_id}/{sha256[:2]}/{sha256}"
