"""Rate limits, shared by all processes through Redis, with `RateLimit` headers on the answer."""

import re
import time
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address

import structlog
from flask import Flask, Response, current_app, request
from flask_jwt_extended import decode_token
from flask_jwt_extended.exceptions import JWTExtendedException
from flask_limiter import HeaderNames, Limiter, RateLimitExceeded
from flask_limiter.util import get_remote_address
from jwt import PyJWTError

from backend.config import Settings
from backend.http.api import settings
from backend.http.problems import problem

# The library would tell the caller of every answer when to come back, also of good ones.
UNUSED = "X-Unused-Retry-After"


def caller() -> str:
    """The user whom the access token names, or the address where there is no good token.

    Limits are counted before a view's guard has run, and an ended log-in's user is its user still.
    """
    sent = request.authorization
    if sent is not None and sent.type == "bearer" and sent.token:
        try:
            user, expires_at = _bearer(sent.token, current_app.config["JWT_SECRET_KEY"])
        except (PyJWTError, JWTExtendedException, RecursionError):
            return client_address()  # the guard says what is wrong with it
        if time.time() < expires_at:
            return f"user:{user}"
    return client_address()


@lru_cache(maxsize=4096)
def _bearer(token: str, _key: str) -> tuple[str, float]:
    """Whose good token it is, and until when: remembered, for it comes with each request."""
    claims = decode_token(token)
    return claims["sub"], claims["exp"]


def client_address() -> str:
    """The caller's address; of IPv6 the network, because one caller commands a whole /64."""
    address = get_remote_address()
    try:
        ip = ip_address(address)
    except ValueError:
        return f"address:{address}"
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is None:
        return f"address:{IPv6Network((int(ip), 64), strict=False)}"
    return f"address:{address}"


log = structlog.get_logger(__name__)

limiter = Limiter(
    key_func=caller,
    # One count for all routes together, where default_limits would be one for each.
    application_limits=[lambda: settings().request_limit_per_user],
    headers_enabled=True,
    header_name_mapping={
        HeaderNames.LIMIT: "RateLimit-Limit",
        HeaderNames.REMAINING: "RateLimit-Remaining",
        HeaderNames.RESET: "RateLimit-Reset",
        HeaderNames.RETRY_AFTER: UNUSED,
    },
    retry_after="delta-seconds",
    # The one strategy that counts at once, and can take back what it has counted.
    strategy="fixed-window",
    # Redis away or frozen: count in this process rather than refuse or wait.
    in_memory_fallback_enabled=True,
    swallow_errors=True,
    key_prefix="sluice",
)


def uncount() -> None:
    """Take the present request out of its view's counts: only those that fail are limited.

    It was counted before the view, because of many at the same moment each would find room.
    """
    for each in limiter.current_limits:
        if not each.shared:
            try:
                limiter.limiter.hit(each.limit, *each.request_args, cost=-1)
            except Exception as error:  # noqa: BLE001 - whatever the store raises: it is away
                log.warning("limit_not_given_back", error=str(error)[:200])


def register_rate_limits(app: Flask, settings: Settings) -> None:
    """Count in the settings' Redis; in memory where the broker is another server."""
    address = settings.redis_address
    app.config["RATELIMIT_STORAGE_URI"] = (
        re.sub(r"^unix://", "redis+unix://", address) if address else "memory://"
    )
    if address:
        app.config["RATELIMIT_STORAGE_OPTIONS"] = {
            "socket_connect_timeout": 0.3,
            "socket_timeout": 0.3,
        }
    # Before the library's own hook, because hooks run in the reverse of their order.
    app.after_request(_reset_in_seconds)
    limiter.init_app(app)
    app.register_error_handler(RateLimitExceeded, _refuse)


def _refuse(error: RateLimitExceeded) -> Response:
    limit = error.limit.limit
    wait = max(1.0, _resets_at() - time.time())
    return problem(
        429,
        f"At most {limit.amount} requests in {limit.get_expiry()} seconds are accepted here;"
        f" try again in {round(wait)} seconds.",
        code="rate_limited",
        retry_after_seconds=wait,
    )


def _resets_at() -> float:
    current = limiter.current_limit
    return float(current.reset_at) if current else time.time()


def _reset_in_seconds(response: Response) -> Response:
    """The library gives the moment of reset; the header's standard form is the seconds until it."""
    response.headers.pop(UNUSED, None)
    reset = response.headers.get("RateLimit-Reset")
    if reset:
        response.headers["RateLimit-Reset"] = str(max(0, int(float(reset) - time.time())))
    return response
