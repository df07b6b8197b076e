"""What can be done with accounts and log-ins. The caller owns the transaction."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID, uuid4

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.accounts import passwords
from backend.accounts.models import AuthSession, EndReason, User, UserRole, normalise_email
from backend.clock import utc_now
from backend.errors import Conflict, NotFound, Unauthenticated

IS_LIVE = AuthSession.revoked_at.is_(None)


def register(
    session: Session,
    *,
    email: str,
    password_hash: str,
    name: str = "",
    role: UserRole = UserRole.USER,
) -> User:
    """Make an account; raise Conflict (`email_taken`) where the address has one.

    The password comes hashed, because hashing is slow and a write transaction makes others wait.
    """
    user = User(email=normalise_email(email), password_hash=password_hash, name=name, role=role)
    session.add(user)
    try:
        session.flush()
    except IntegrityError:
        raise Conflict(
            f"email: {user.email} already has an account; log in instead.",
            code="email_taken",
            fields={"email": ["Already has an account."]},
        ) from None
    return user


def authenticate(session: Session, email: str, password: str) -> User:
    """Return the active user of an email address and password; else raise Unauthenticated.

    An unknown address, a wrong password and a disabled account cost the same time and read the
    same, so that nobody learns who has an account.
    """
    user = find_by_email(session, email)
    matches = passwords.verify(user.password_hash if user else None, password)
    if user is None or not matches or not user.is_active:
        raise Unauthenticated(
            "The email address or the password is wrong.", code="invalid_credentials"
        )
    return user


def renew_hash(session: Session, user: User, password: str) -> None:
    """Hash the user's password anew if its hash was made with older parameters."""
    if passwords.is_outdated(user.password_hash):
        # Not over a password that was changed since this one was verified.
        session.execute(
            update(User)
            .where(User.id == user.id, User.password_hash == user.password_hash)
            .values(password_hash=passwords.hash_password(password))
        )


def find_by_email(session: Session, email: str) -> User | None:
    """Return the user of an email address, active or not."""
    return session.scalar(select(User).where(User.email == normalise_email(email)))


def find_signed_in(session: Session, user_id: int, family_id: UUID) -> User | None:
    """Return the user of a live log-in; None if it ended, or the user is disabled or gone."""
    return session.scalar(
        select(User)
        .join(AuthSession, AuthSession.user_id == User.id)
        .where(
            AuthSession.id == family_id,
            AuthSession.user_id == user_id,
            IS_LIVE,
            AuthSession.expires_at > utc_now(),
            User.is_active,
        )
    )


def live_families(session: Session, family_ids: Collection[UUID]) -> set[UUID]:
    """Return those of these log-ins that have not ended, and whose users are active."""
    if not family_ids:
        return set()
    query = select(AuthSession.id).join(User, AuthSession.user_id == User.id)
    query = query.where(
        AuthSession.id.in_(family_ids), IS_LIVE, AuthSession.expires_at > utc_now(), User.is_active
    )
    return set(session.scalars(query))


def list_users(session: Session) -> Sequence[User]:
    """Return all users, the oldest first."""
    return session.scalars(select(User).order_by(User.id)).all()


def disable(session: Session, email: str) -> User:
    """Shut a user out at once; raise NotFound where the address has no account."""
    user = find_by_email(session, email)
    if user is None:
        raise NotFound(f"{normalise_email(email)} has no account.")
    user.is_active = False
    end_all_sessions(session, user.id, EndReason.DISABLED)
    return user


def start_session(session: Session, user: User, lifetime: timedelta) -> AuthSession:
    """Begin a log-in: a new family of tokens."""
    now = utc_now()
    family = AuthSession(
        user=user,
        refresh_jti=uuid4(),
        created_at=now,
        last_used_at=now,
        expires_at=now + lifetime,
    )
    session.add(family)
    session.flush()
    return family


def rotate(
    session: Session, family_id: UUID, refresh_jti: UUID, lifetime: timedelta
) -> AuthSession | None:
    """Exchange the family's current refresh token for a new one.

    None means that the token was not the current one of a live family: someone holds a copy of
    it, and nobody can tell whom it was stolen from. So the family ends, as RFC 9700, section
    4.14.2, has it; commit, and refuse. Of two at the same moment one wins, and the other ends it.
    """
    now = utc_now()
    family = session.scalar(
        update(AuthSession)
        .where(
            AuthSession.id == family_id,
            AuthSession.refresh_jti == refresh_jti,
            IS_LIVE,
            AuthSession.expires_at > now,
            AuthSession.user.has(User.is_active),
        )
        .values(refresh_jti=uuid4(), last_used_at=now, expires_at=now + lifetime)
        .returning(AuthSession)
    )
    if family is None:
        end_session(session, family_id, EndReason.TOKEN_REUSED)
    return family


def end_session(session: Session, family_id: UUID, reason: EndReason) -> None:
    """End a log-in: its refresh token and its access tokens are refused from now on."""
    session.execute(
        update(AuthSession)
        .where(AuthSession.id == family_id, IS_LIVE)
        .values(revoked_at=utc_now(), revoked_reason=reason)
    )


def end_all_sessions(session: Session, user_id: int, reason: EndReason) -> None:
    """End all log-ins of a user."""
    session.execute(
        update(AuthSession)
        .where(AuthSession.user_id == user_id, IS_LIVE)
        .values(revoked_at=utc_now(), revoked_reason=reason)
    )


def forget_expired_sessions(session: Session) -> int:
    """Remove log-ins past their time; return how many."""
    stale = delete(AuthSession).where(AuthSession.expires_at < utc_now())
    return cast(CursorResult[Any], session.execute(stale)).rowcount
