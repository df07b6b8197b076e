"""The tables of accounts: who may sign in, and the families of tokens that they hold."""

import unicodedata
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import Enum, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7

from backend.clock import utc_now
from backend.db import Base

MAX_EMAIL_LENGTH = 254  # the longest address that SMTP can carry (RFC 5321, section 4.5.3.1.3)
MAX_NAME_LENGTH = 200


class UserRole(StrEnum):
    """What a user may do: use the service, or also run it."""

    USER = "user"
    ADMIN = "admin"


class EndReason(StrEnum):
    """Why a family of tokens ended before its time."""

    LOGGED_OUT = "logged_out"
    TOKEN_REUSED = "token_reused"  # noqa: S105 - a reason, not a secret
    DISABLED = "disabled"


class User(Base):
    """A person who may sign in. `email` is kept as `normalise_email` gives it."""

    __tablename__ = "users"
    # An id is never given out twice: what outlives a user must not become another's.
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(MAX_EMAIL_LENGTH), unique=True)
    name: Mapped[str] = mapped_column(String(MAX_NAME_LENGTH), default="")
    password_hash: Mapped[str] = mapped_column(String(255))
    role: Mapped[UserRole] = mapped_column(
        Enum(UserRole, native_enum=False, length=12, values_callable=list), default=UserRole.USER
    )
    plan: Mapped[str] = mapped_column(String(40), default="free")
    is_active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class AuthSession(Base):
    """One log-in: a family of refresh tokens of which only the newest is good.

    Its access tokens name it too (claim `sid`), so that ending it ends them all at once.
    """

    __tablename__ = "auth_sessions"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    refresh_jti: Mapped[UUID]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime]
    expires_at: Mapped[datetime] = mapped_column(index=True)
    revoked_at: Mapped[datetime | None]
    revoked_reason: Mapped[str | None] = mapped_column(String(20))

    user: Mapped[User] = relationship()


def normalise_email(text: str) -> str:
    """Return the one form of an email address under which its account is kept and limited."""
    return unicodedata.normalize("NFKC", text).strip().lower()
