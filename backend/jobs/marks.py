"""Marks that applications leave in the broker, so that two that share one by mistake are found.

A ledger has an identity, a random number in its own table. Beats and workers write now and then
into a hash of the broker's Redis which ledger they serve, from which machine, and with which of
the settings that all of them must share; of secrets only a digest.
"""

import hashlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import redis
from flask import current_app
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from backend.config import Settings
from backend.db import AWAY, db, transaction
from backend.jobs.models import LedgerIdentity

KEY = "sluice:applications"
REDIS_SECONDS = 1.0
EVERY_SECONDS = 30.0
FRESH_SECONDS = 600  # a mark that is older is of an application that has ended
SHARED = (
    "secret_key",
    "storage_url",
    "lease_seconds",
    "heartbeat_seconds",
    "reconcile_seconds",
    "cancel_grace_seconds",
    "job_retention_seconds",
    "artifact_retention_seconds",
    "upload_retention_seconds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """An application that uses the broker: its ledger, its machine, its settings."""

    ledger: str
    machine: str
    settings: dict[str, str]
    seen_at: float  # by the broker's clock, in seconds of the Unix epoch


def identity() -> str:
    """What this ledger is known by, whatever address it is reached at."""
    query = select(LedgerIdentity.name)
    found = db.session.scalars(query).first()
    db.session.commit()
    if found is None:
        with suppress(IntegrityError), transaction() as session:
            session.add(LedgerIdentity(id=1, name=uuid4().hex))
        found = db.session.scalars(query).one()
        db.session.commit()
    return found


def leave() -> None:
    """Leave this application's mark, at most twice a minute; not where the broker is no Redis."""
    settings: Settings = current_app.config["SLUICE"]
    address = settings.broker_redis_address
    last = current_app.extensions.get("sluice.marked", float("-inf"))
    if not address or time.monotonic() < last + EVERY_SECONDS:
        return
    current_app.extensions["sluice.marked"] = time.monotonic()
    shared, machine = shared_settings(settings), socket.gethostname()
    # The next one comes soon enough, whatever is away.
    with suppress(redis.RedisError, *AWAY), closing(connect(address)) as client:
        ledger = identity()
        # One of each sort, however many processes write it.
        field = hashlib.sha256(json.dumps([ledger, machine, shared]).encode()).hexdigest()
        seconds, _ = client.time()
        mark = {"ledger": ledger, "machine": machine, "settings": shared, "seen_at": seconds}
        client.hset(KEY, field, json.dumps(mark))


def found() -> list[Mark]:
    """The marks of the applications that use the broker; raises redis.RedisError."""
    settings: Settings = current_app.config["SLUICE"]
    with closing(connect(settings.broker_redis_address)) as client:
        seconds, _ = client.time()
        return [mark for mark in _read(client) if mark.seen_at > seconds - FRESH_SECONDS]


def shared_settings(settings: Settings) -> dict[str, str]:
    """The settings that all programs of an application must share, as text; secrets digested."""
    told = {}
    for name in SHARED:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = hashlib.sha256(value.get_secret_value().encode()).hexdigest()[:12]
        told[name.upper()] = str(value)
    return told


def connect(address: str) -> Any:
    """A client of the broker's Redis that gives up in bounded time."""
    return redis.Redis.from_url(
        address, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
    )


def _read(client: Any) -> Iterator[Mark]:
    for text in client.hvals(KEY):
        with suppress(ValueError, TypeError):  # of another version
            yield Mark(**json.loads(text))
