"""News of jobs for watchers: a wake-up through Redis pub/sub, and the truth from the ledger.

A watcher that hears nothing still looks at the ledger every two seconds; so a Redis that is
away makes streams slower and never wrong. Each web process listens once, however many watch.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import UUID

import redis
import structlog
from flask import Flask

from backend.config import Settings

log = structlog.get_logger(__name__)

CHANNEL = "sluice:jobs"
REDIS_SECONDS = 0.25
BREAK_SECONDS = 5.0
MOST_CHANGED = 1000  # a watcher that is behind by more than this looks at everything


class RedisAnnouncer:
    """Tells every web process that a job changed; silent for a while when Redis is away."""

    def __init__(self, address: str) -> None:
        self._redis = _client(address, REDIS_SECONDS)
        self._broken_until = 0.0

    def announce(self, news: Sequence[dict[str, Any]]) -> None:
        """Publish the news."""
        if time.monotonic() < self._broken_until:
            return
        try:
            self._redis.publish(CHANNEL, json.dumps(news))
        except redis.RedisError:
            self._broken_until = time.monotonic() + BREAK_SECONDS


class SilentAnnouncer:
    """For a broker that is not Redis: watchers look at the ledger on their own."""

    def announce(self, news: Sequence[dict[str, Any]]) -> None:
        """Say nothing."""


class Listener(Protocol):
    """Who hears the news that reaches this process."""

    def hear(self, news: dict[str, Any]) -> None:
        """Note the news if it is of interest, without waiting."""


class Watcher:
    """A thread that waits for changes of an owner's jobs, or of one job and its children."""

    def __init__(self, owner_id: int, job_id: UUID | None) -> None:
        self._owner_id = owner_id
        self._job = job_id.hex if job_id else None
        self._changed: dict[str, None] = {}
        self._overrun = False
        self._condition = threading.Condition()

    def hear(self, news: dict[str, Any]) -> None:
        """Note the news if it is of interest. Never waits, never grows without bound."""
        if news.get("owner_id") != self._owner_id:
            return
        if self._job and self._job not in {news["job_id"], news.get("parent_id")}:
            return
        with self._condition:
            if len(self._changed) < MOST_CHANGED:
                self._changed[news["job_id"]] = None
            else:
                self._overrun = True
            self._condition.notify()

    def wait(self, seconds: float) -> bool:
        """Wait for news or for the time to pass; tell whether there was news."""
        with self._condition:
            if not self._changed:
                self._condition.wait(seconds)
            heard = bool(self._changed)
            self._changed.clear()
            return heard


class Hub:
    """One subscription per web process, shared by all who listen.

    Of these, at most `limit` are threads that wait.
    """

    def __init__(self, address: str, limit: int) -> None:
        self._address = address
        self._seats = threading.Semaphore(limit)
        self._listeners: set[Listener] = set()
        self._lock = threading.Lock()
        self._pid = 0
        # Whether this process is to end: watchers are let go then. The server sets it.
        self.is_stopping: Callable[[], bool] = lambda: False

    @contextmanager
    def watch(self, owner_id: int, job_id: UUID | None = None) -> Iterator[Watcher | None]:
        """Watch for as long as the block runs; None when too many threads wait already."""
        if not self._seats.acquire(blocking=False):
            yield None
            return
        watcher = Watcher(owner_id, job_id)
        try:
            self.subscribe(watcher)
            yield watcher
        finally:
            with self._lock:
                self._listeners.discard(watcher)
            self._seats.release()

    def subscribe(self, listener: Listener) -> None:
        """Let somebody hear all news from now on."""
        with self._lock:
            self._listeners.add(listener)
            self._listen()

    def _listen(self) -> None:
        if self._address and self._pid != os.getpid():
            self._pid = os.getpid()
            threading.Thread(target=self._serve, name="live", daemon=True).start()

    def _serve(self) -> None:
        client = _client(self._address, None)
        while True:
            try:
                with client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CHANNEL)
                    for message in channel.listen():
                        self._spread(json.loads(message["data"]))
            except (redis.RedisError, OSError) as error:
                log.warning("live_interrupted", error=str(error)[:200])
                time.sleep(1.0)

    def _spread(self, news: Sequence[dict[str, Any]]) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for each in news:
            for listener in listeners:
                listener.hear(each)


def connect_live(app: Flask, settings: Settings) -> None:
    """Give the application its announcer and its hub of watchers."""
    address = settings.redis_address
    announcer = RedisAnnouncer(address) if address else SilentAnnouncer()
    app.extensions["sluice.announcer"] = announcer
    app.extensions["sluice.hub"] = Hub(address, settings.most_waiting)


def _client(address: str, seconds: float | None) -> "redis.Redis":
    return redis.Redis.from_url(
        address,
        socket_timeout=seconds,
        socket_connect_timeout=REDIS_SECONDS,
        health_check_interval=30 if seconds is None else 0,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
    )
