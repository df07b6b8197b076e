"""Registering, logging in and out, and refreshing tokens."""

import hashlib
from datetime import timedelta
from typing import Any

from flask import request

from backend.accounts import passwords, services, tokens
from backend.accounts.guards import current_claims, current_user, signed_in
from backend.accounts.models import EndReason, normalise_email
from backend.accounts.schemas import (
    LoginSchema,
    MeSchema,
    RefreshSchema,
    RegisterSchema,
    SuccessSchema,
    TokenPairSchema,
)
from backend.accounts.tokens import TokenPair
from backend.db import db, transaction
from backend.errors import Forbidden
from backend.http.api import Blueprint, settings
from backend.http.rate_limits import client_address, limiter, uncount

blueprint = Blueprint("accounts", __name__, url_prefix="/api/auth")


def account() -> str:
    """The key of an account's limit: the same whether the account exists or not."""
    email = normalise_email(request.get_json()["email"])
    return "account:" + hashlib.sha256(email.encode()).hexdigest()


@blueprint.route("/register", methods=["POST"])
@blueprint.arguments(RegisterSchema)
@blueprint.response(201, TokenPairSchema)
@limiter.limit(lambda: settings().register_limit_per_address, key_func=client_address)
def register(body: dict[str, Any]) -> TokenPair:
    """Make an account and log in.

    409 where the address has an account; 403 where registration is closed.
    """
    if not settings().registration_open:
        raise Forbidden(
            "Registration is closed here; ask an administrator.", code="registration_closed"
        )
    password_hash = passwords.hash_password(body.pop("password"))
    with transaction() as session:
        user = services.register(session, password_hash=password_hash, **body)
        family = services.start_session(session, user, _lifetime())
    return tokens.mint(family)


# Of limits of one unit of time, the RateLimit headers speak of the innermost.
@blueprint.route("/login", methods=["POST"])
@blueprint.arguments(LoginSchema)
@blueprint.response(200, TokenPairSchema)
@limiter.limit(lambda: settings().login_limit_per_address, key_func=client_address)
@limiter.limit(lambda: settings().login_limit_per_account, key_func=account)
def login(body: dict[str, Any]) -> TokenPair:
    """Log in with an email address and a password.

    401 alike for a wrong password and an unknown account; 429 after too many of them.
    """
    user = services.authenticate(db.session(), body["email"], body["password"])
    uncount()
    with transaction() as session:
        services.renew_hash(session, user, body["password"])
        family = services.start_session(session, user, _lifetime())
    return tokens.mint(family)


@blueprint.route("/refresh", methods=["POST"])
@blueprint.arguments(RefreshSchema, required=False)
@blueprint.response(200, TokenPairSchema)
@blueprint.doc(security=[{"bearer": []}, {}])
def refresh(body: dict[str, Any]) -> TokenPair:
    """Exchange a refresh token, sent as the bearer token or in the body, for a new pair.

    A refresh token is good for one exchange; when it comes again, the whole log-in ends.
    """
    claims = tokens.read_refresh_token(body["refresh_token"] or _bearer_token())
    with transaction() as session:
        family = services.rotate(session, claims.family_id, claims.jti, _lifetime())
    if family is None:
        raise tokens.revoked_token()
    return tokens.mint(family)


@blueprint.route("/logout", methods=["POST"])
@signed_in
@blueprint.response(200, SuccessSchema)
def logout() -> dict[str, Any]:
    """Log out: the access token and its refresh token are refused from now on."""
    with transaction() as session:
        services.end_session(session, current_claims().family_id, EndReason.LOGGED_OUT)
    return {}


@blueprint.route("/me")
@signed_in
@blueprint.response(200, MeSchema)
def me() -> dict[str, Any]:
    """Who is signed in."""
    return {"user": current_user()}


def _lifetime() -> timedelta:
    return timedelta(seconds=settings().refresh_token_seconds)


def _bearer_token() -> str:
    sent = request.authorization
    if sent is None or sent.type != "bearer" or not sent.token:
        raise tokens.missing_token()
    return sent.token
