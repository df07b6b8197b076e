"""The JSON Web Tokens (RFC 7519) of a log-in: minted from its family, and read back as claims."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import current_app
from flask_jwt_extended import create_access_token, create_refresh_token, decode_token

from backend.accounts.models import AuthSession, User
from backend.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token that was read says: whose it is, which log-in's, and until when."""

    user_id: int
    family_id: UUID
    jti: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a client gets at a log-in and at each refresh."""

    access_token: str
    refresh_token: str
    expires_in: int  # seconds that the access token is good for
    user: User


def mint(family: AuthSession) -> TokenPair:
    """Make an access token, and the refresh token that the family holds for the current one."""
    identity, family_claim = str(family.user_id), {"sid": str(family.id)}
    return TokenPair(
        access_token=create_access_token(identity, additional_claims=family_claim),
        refresh_token=create_refresh_token(
            identity, additional_claims={**family_claim, "jti": str(family.refresh_jti)}
        ),
        expires_in=current_app.config["SLUICE"].access_token_seconds,
        user=family.user,
    )


def read_refresh_token(token: str) -> Claims:
    """Return a refresh token's claims; raise if it is expired, forged or another sort of token."""
    try:
        decoded = decode_token(token)
    except RecursionError:  # its JSON is read before its signature is checked
        raise invalid_token() from None
    if decoded["type"] != "refresh":
        raise invalid_token()
    return claims_of(decoded)


def claims_of(decoded: dict[str, Any]) -> Claims:
    """Return the claims of a token whose signature was checked; raise if it lacks any of ours."""
    try:
        return Claims(
            user_id=int(decoded["sub"]),
            family_id=UUID(decoded["sid"]),
            jti=UUID(decoded["jti"]),
            expires_at=datetime.fromtimestamp(decoded["exp"], UTC),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise invalid_token() from None


def missing_token() -> Unauthenticated:
    """The refusal of a request without a token."""
    return Unauthenticated(
        "Log in first, and send the token as `Authorization: Bearer <token>`.",
        code="token_missing",
    )


def expired_token() -> Unauthenticated:
    """The refusal of a token past its time."""
    return Unauthenticated("The token has expired; refresh it or log in.", code="token_expired")


def revoked_token() -> Unauthenticated:
    """The refusal of a token whose log-in has ended."""
    return Unauthenticated("This log-in has ended; log in again.", code="token_revoked")


def invalid_token() -> Unauthenticated:
    """The refusal of what is no token of ours, or of another sort than is wanted."""
    return Unauthenticated(
        "The token is not one that is accepted here; log in again.", code="token_invalid"
    )
