"""Whether this instance can do its work: database, broker, storage, and a worker seen lately.

And clamd, where there is to be a virus scan.
"""

from collections.abc import Callable
from typing import Any

import redis
from flask import current_app
from sqlalchemy import select

from backend.config import Settings
from backend.db import db
from backend.jobs.workers import seen_within
from backend.storage import antivirus
from backend.storage.blobs import store

WORKER_SECONDS = 60.0
REDIS_SECONDS = 1.0


def checks() -> dict[str, str]:
    """Return each part with "ok", or a sentence that says what is wrong and what to do."""
    parts: dict[str, Callable[[], str]] = {
        "database": _database,
        "broker": _broker,
        "storage": _storage,
        "workers": _workers,
    }
    if antivirus.is_on():
        parts["antivirus"] = _antivirus
    return {name: _said(check) for name, check in parts.items()}


def _said(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a check that fails is its own answer
        db.session.rollback()
        # The kind of the failure, and not its words: those may hold addresses and log-ins.
        return f"not reachable ({type(error).__name__})"


def _database() -> str:
    db.session.execute(select(1))
    db.session.commit()
    return "ok"


def _broker() -> str:
    settings: Settings = current_app.config["SLUICE"]
    if settings.broker_redis_address:
        return redis_fault(_redis(settings.broker_redis_address)) or "ok"
    current_app.extensions["sluice.broker_depths"]()
    return "ok"


def _redis(address: str) -> Any:
    return redis.Redis.from_url(
        address, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
    )


def redis_fault(client: Any) -> str | None:
    """Say why a Redis server cannot be trusted with messages; None if it can."""
    memory = client.info("memory")
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return (
            f"maxmemory-policy is {policy}: under memory pressure the server would throw queued"
            " messages away; set it to noeviction"
        )
    limit, used = memory.get("maxmemory", 0), memory.get("used_memory", 0)
    if limit and used >= limit:
        return f"out of memory: {used} of {limit} bytes are used; raise maxmemory"
    return None


def _storage() -> str:
    store().exists("readiness")
    return "ok"


def _antivirus() -> str:
    antivirus.ping()
    return "ok"


def _workers() -> str:
    seen = seen_within(WORKER_SECONDS)
    db.session.commit()
    if not seen:
        return f"no worker was seen in the last {WORKER_SECONDS:g} seconds; start one"
    return "ok"
