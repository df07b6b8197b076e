"""Rate limits, shared by all processes through Redis, with `RateLimit` headers on the answer."""

import re
import time

from flask import Flask, Response, g
from flask_jwt_extended import get_jwt_identity
from flask_jwt_extended.exceptions import JWTExtendedException
from flask_limiter import HeaderNames, Limiter, RateLimitExceeded
from flask_limiter.util import get_remote_address

from backend.config import Settings
from backend.http.problems import problem


def caller() -> str:
    """The signed-in user's id, or the address where nobody is signed in."""
    try:
        identity = get_jwt_identity()
    except (JWTExtendedException, RuntimeError):
        identity = None
    return f"user:{identity}" if identity else f"address:{get_remote_address()}"


limiter = Limiter(
    key_func=caller,
    headers_enabled=True,
    header_name_mapping={
        HeaderNames.LIMIT: "RateLimit-Limit",
        HeaderNames.REMAINING: "RateLimit-Remaining",
        HeaderNames.RESET: "RateLimit-Reset",
    },
    retry_after="delta-seconds",
    strategy="moving-window",
    # Redis away or frozen: count in this process rather than refuse or wait.
    in_memory_fallback_enabled=True,
    swallow_errors=True,
    key_prefix="sluice",
)


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
    limiter.init_app(app)
    app.register_error_handler(RateLimitExceeded, _refuse)
    app.after_request(_reset_in_seconds)


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
    reset = response.headers.get("RateLimit-Reset")
    if reset and not g.get("reset_in_seconds"):
        g.reset_in_seconds = True
        response.headers["RateLimit-Reset"] = str(max(0, int(float(reset) - time.time())))
    return response
