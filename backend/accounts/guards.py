"""Who may call a view: `signed_in`, `admin_only`, and what they know of the caller."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import flask_smorest
import structlog
from flask import Flask, Response, g, request
from flask_jwt_extended import JWTManager, get_current_user, get_jwt, verify_jwt_in_request
from limits import parse_many

from backend.accounts import services, tokens
from backend.accounts.models import User, UserRole
from backend.accounts.tokens import Claims, claims_of
from backend.clock import utc_now
from backend.config import Settings, SettingsError
from backend.db import db
from backend.errors import Forbidden, Unauthenticated
from backend.http.problems import problem

P = ParamSpec("P")
T = TypeVar("T")

MIN_SECRET_LENGTH = 32  # a key as long as the hash's output (RFC 7518, section 3.2)
LIMITS = (
    "login_limit_per_account",
    "login_limit_per_address",
    "register_limit_per_address",
    "request_limit_per_user",
)

_documented = flask_smorest.Blueprint.doc(security=[{"bearer": []}])


def signed_in(view: Callable[P, T]) -> Callable[P, T]:
    """Let only a live log-in's access token pass; `current_user()` is its user."""

    @wraps(view)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        _spell_scheme()
        try:
            verify_jwt_in_request()
        except RecursionError:  # a token's JSON is read before its signature is checked
            raise tokens.invalid_token() from None
        g.user = get_current_user()
        structlog.contextvars.bind_contextvars(user_id=g.user.id)
        return view(*args, **kwargs)

    documented: Callable[P, T] = _documented(wrapper)
    return documented


def _spell_scheme() -> None:
    """The library knows "Bearer" alone; a scheme's case has no meaning (RFC 9110, 11.1)."""
    scheme, space, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        request.environ["HTTP_AUTHORIZATION"] = f"Bearer{space}{token}"


def admin_only(view: Callable[P, T]) -> Callable[P, T]:
    """Let only a signed-in administrator pass."""

    @wraps(view)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if current_user().role is not UserRole.ADMIN:
            raise Forbidden("Only an administrator may do this.", code="admin_only")
        return view(*args, **kwargs)

    return signed_in(wrapper)


def current_user() -> User:
    """Return the caller of a view that is `signed_in`."""
    user: User = g.user
    return user


def current_claims() -> Claims:
    """Return what the access token of a `signed_in` view's caller says."""
    return claims_of(get_jwt())


@dataclass(frozen=True, slots=True)
class LogIn:
    """The log-in behind a request, for an answer that goes on and must not outlive it."""

    claims: Claims

    @property
    def seconds_left(self) -> float:
        """Until the access token expires."""
        return (self.claims.expires_at - utc_now()).total_seconds()

    def holds(self) -> bool:
        """Whether the token would still be accepted: neither expired nor revoked."""
        if self.seconds_left <= 0:
            return False
        found = services.find_signed_in(db.session(), self.claims.user_id, self.claims.family_id)
        return found is not None


def current_log_in() -> LogIn:
    """Return the log-in of a `signed_in` view's caller."""
    return LogIn(current_claims())


def configure_accounts(app: Flask, settings: Settings) -> None:
    """Set up the tokens; raise SettingsError for a weak secret or a limit that cannot be read."""
    _check(settings)
    app.config.update(
        JWT_SECRET_KEY=settings.secret_key.get_secret_value(),
        JWT_ALGORITHM="HS256",
        JWT_DECODE_ALGORITHMS=["HS256"],
        JWT_TOKEN_LOCATION=["headers"],
        JWT_ENCODE_NBF=False,
        JWT_COOKIE_CSRF_PROTECT=False,  # no cookies, so no claim for them either
        JWT_ACCESS_TOKEN_EXPIRES=timedelta(seconds=settings.access_token_seconds),
        JWT_REFRESH_TOKEN_EXPIRES=timedelta(seconds=settings.refresh_token_seconds),
    )
    manager = JWTManager(app)
    manager.unauthorized_loader(_refuse(tokens.missing_token))
    manager.expired_token_loader(_refuse(tokens.expired_token))
    manager.invalid_token_loader(_refuse(tokens.invalid_token))
    manager.user_lookup_loader(_find_user)
    manager.user_lookup_error_loader(_refuse(tokens.revoked_token))
    app.after_request(_challenge)


def _check(settings: Settings) -> None:
    secret = settings.secret_key.get_secret_value()
    if len(secret) < MIN_SECRET_LENGTH:
        has = f"has {len(secret)} characters" if secret else "is not set"
        raise SettingsError(
            f"SECRET_KEY {has}: run ./scripts/up, which makes one, or set it to"
            f" {MIN_SECRET_LENGTH} or more random characters"
        )
    for name in LIMITS:
        try:
            parse_many(getattr(settings, name))
        except ValueError:
            # The limiter would only log it, at each request, and let everything pass.
            raise SettingsError(
                f"{name.upper()} is {getattr(settings, name)!r}: it must read like"
                " '10 per 15 minutes'"
            ) from None


def _refuse(refusal: Callable[[], Unauthenticated]) -> Callable[..., Response]:
    # An answer rather than the error itself: the library calls this where errors are handled.
    def loader(*_: Any) -> Response:
        error = refusal()
        return problem(error.status, error.detail, code=error.code)

    return loader


def _find_user(_header: dict[str, Any], decoded: dict[str, Any]) -> User | None:
    claims = claims_of(decoded)
    return services.find_signed_in(db.session(), claims.user_id, claims.family_id)


def _challenge(response: Response) -> Response:
    """Every 401 says how to do better (RFC 9110, section 15.5.2)."""
    if response.status_code == 401:
        response.headers.setdefault("WWW-Authenticate", "Bearer")
    return response
