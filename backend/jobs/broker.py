"""What is said to the broker, and asked of it: the doorbell, how many messages wait, and kombu's
transports for Redis and RabbitMQ with what is mended of them.
"""

import os
import queue
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from kombu import Connection
from kombu.transport import pyamqp as kombu_amqp
from kombu.transport import redis as kombu_redis
from kombu.transport.virtual.base import Base64
from kombu.utils import json as kombu_json

from backend.jobs import metrics
from backend.jobs.batches import RINGS_AT_ONCE as MOST_WAITING
from backend.jobs.kinds import Queue

log = structlog.get_logger(__name__)

TASK = "sluice.run"
BROKER_SECONDS = 1.0  # how long a publish may take before the steward is left to ring
BREAK_SECONDS = 2.0  # after a failed publish, nothing is tried for so long
LOOK_AFTER_RINGS = 20  # rings for a queue between two looks at how many messages wait in it


class BrokerDoorbell:
    """Rings from a thread of its own: no request ever waits for the broker.

    A slot that was woken serves until nothing is ready, so a queue in which enough messages wait
    for all slots needs no more of them: a hundred thousand jobs are not as many messages.
    """

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._pid = 0
        self._starting = threading.Lock()
        self._wanted: queue.SimpleQueue[tuple[str, Sequence[UUID]]] = queue.SimpleQueue()
        self._idle = threading.Event()

    def ring(self, queue_name: str, job_ids: Sequence[UUID]) -> None:
        """Send one message per job id, in the background."""
        with self._starting:
            if self._pid != os.getpid():  # threads do not survive a fork
                self._wanted, self._idle = queue.SimpleQueue(), threading.Event()
                threading.Thread(target=self._serve, name="doorbell", daemon=True).start()
                self._pid = os.getpid()
        self._idle.clear()
        self._wanted.put((queue_name, job_ids))

    def flush(self, timeout_seconds: float) -> None:
        """Wait until what was rung is sent, or the time is over."""
        if self._pid == os.getpid():
            self._idle.wait(timeout_seconds)

    def _serve(self) -> None:
        line = _Line(self._celery)
        broken_until = 0.0
        while True:
            name, job_ids = self._wanted.get()
            outcome = "failed"
            try:
                if time.monotonic() >= broken_until:
                    outcome = "sent" if line.send(name, job_ids) else "spared"
            except Exception as error:  # noqa: BLE001 - a lost ring is rung again by the steward
                log.warning("broker_unreachable", error=str(error)[:200])
                broken_until = time.monotonic() + BREAK_SECONDS
            metrics.RINGS.labels(name, outcome).inc(len(job_ids))
            if self._wanted.empty():
                self._idle.set()


class _Line:
    """The doorbell's connection to the broker, made when it is needed and again when it broke."""

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._connection: Connection | None = None
        self._producer: Any = None
        self._room: dict[str, int] = {}  # how many more go out to a queue before it is looked at

    def send(self, name: str, job_ids: Sequence[UUID]) -> int:
        """Send one message per job id, up to what is of use; return how many."""
        fresh = self._connection is None
        try:
            return self._send(name, job_ids)
        except Exception:
            self._hang_up()
            if fresh:
                raise
        # It may have broken long ago, while nobody rang.
        try:
            return self._send(name, job_ids)
        except Exception:
            self._hang_up()
            raise

    def _send(self, name: str, job_ids: Sequence[UUID]) -> int:
        if self._connection is None:
            self._connection = broker_connection(self._celery.conf.broker_url)
            self._producer = self._celery.amqp.Producer(self._connection.channel())
        sent = 0
        for job_id in job_ids[:MOST_WAITING]:
            if self._room.get(name, 0) <= 0:
                waiting = _depth(self._connection, name)
                self._room[name] = min(LOOK_AFTER_RINGS, MOST_WAITING - waiting)
            if self._room[name] <= 0:
                break
            self._room[name] -= 1
            # With an id of its own, not the job's: a worker that has seen a task of the same id
            # succeed takes the one that runs for done, and never stops it at a shutdown.
            self._celery.send_task(
                TASK,
                args=(job_id.hex,),
                queue=name,
                producer=self._producer,
                retry=False,
                ignore_result=True,
            )
            sent += 1
        return sent

    def _hang_up(self) -> None:
        with suppress(Exception):
            self._connection and self._connection.release()
        self._connection = self._producer = None
        self._room.clear()


def broker_connection(url: str) -> Connection:
    """A connection that gives up in bounded time; for sending and looking, not for consuming."""
    options: dict[str, Any] = {}
    if url.startswith(("redis", "rediss", "valkey", "sentinel")):
        options = {"socket_timeout": BROKER_SECONDS, "socket_connect_timeout": BROKER_SECONDS}
    elif url.startswith(("amqp", "pyamqp")):
        # Confirmed: a message that the broker has not taken is an error here, and rung again.
        options = {
            "read_timeout": BROKER_SECONDS,
            "write_timeout": BROKER_SECONDS,
            "confirm_publish": True,
        }
    return Connection(
        url, connect_timeout=BROKER_SECONDS, transport_options={**options, "max_retries": 0}
    )


class BrokerDepths:
    """How many messages wait in each queue."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url

    def __call__(self) -> dict[str, int]:
        """Return the waiting messages per queue; raises kombu's errors."""
        with broker_connection(self._url) as connection:
            return {name: _depth(connection, name) for name in Queue}


def _depth(connection: Connection, name: str) -> int:
    try:
        # A channel of its own: AMQP closes a channel on which a queue was not found.
        with connection.channel() as channel:
            return int(channel.queue_declare(queue=name, passive=True).message_count)
    except connection.channel_errors:
        return 0  # nobody has declared it yet: nothing waits


# ---------------------------------------------------------------- kombu

# What a worker of Redis holds when it ends or loses the broker is forgotten: kombu 5.7 would put it
# back over the lost connection. The steward rings for what is ready anyway.
kombu_redis.Channel.do_restore = False


def _create_client(self: Any, asynchronous: bool = False) -> Any:
    """The client of a channel's connections, made once; kombu 5.7 makes one for each command."""
    if asynchronous:  # one that waits has a connection of its own
        return _make_client(self, asynchronous)
    made = vars(self).get("sluice_client")
    if made is None or made.connection_pool is not self.pool:
        made = self.sluice_client = _make_client(self)
    return made


_make_client = kombu_redis.Channel._create_client
kombu_redis.Channel._create_client = _create_client


def _load_properties(self: Any, class_id: int, buffer: Any, offset: int) -> Any:
    """The properties of a message of RabbitMQ; none where they cannot be read.

    amqp 5 would let the error end the worker, or begin its connection anew without end.
    """
    try:
        return _load_all_properties(self, class_id, buffer, offset)
    except Exception:  # noqa: BLE001 - a date, a text, a table: each has errors of its own
        self.properties = {}
        return offset


_load_all_properties = kombu_amqp.amqp.Message._load_properties
kombu_amqp.amqp.Message._load_properties = _load_properties


def _loads(text: str) -> Any:
    """What JSON says; None for what is none."""
    try:
        return kombu_json.loads(text)
    except Exception:  # noqa: BLE001 - kombu reads types of its own, and what it raises is anything
        return None


def _deliver(self: Any, message: Any, queue_name: str) -> None:
    """Hand on what is whole, and drop whatever else lies in a queue of Redis.

    kombu 5.7 would let the error end the worker, in the middle of its jobs.
    """
    whole = _whole(message, queue_name)
    if whole is None:
        log.warning("message_dropped", queue=queue_name)
    else:
        _deliver_message(self, whole, queue_name)


def _whole(message: Any, queue_name: str) -> dict[str, Any] | None:
    """A message with all that kombu needs of one; None for any other.

    It goes back into the queue that it came from, whatever it says, should it go back.
    """
    match message:
        case {
            "body": str(body),
            "content-type": str(),
            "content-encoding": str(),
            "headers": dict(),
            "properties": {"delivery_tag": str(tag), **others},
        }:
            encoding = others.get("body_encoding")
        case _:
            return None
    if not _can_be_decoded(body, encoding):
        return None
    properties = {
        "delivery_tag": tag,
        "delivery_info": {"exchange": "", "routing_key": queue_name},
        "body_encoding": encoding,
    }
    return {**message, "properties": properties}


def _can_be_decoded(body: str, encoding: Any) -> bool:
    if encoding == "base64":
        with suppress(ValueError):
            Base64().decode(body)
            return True
        return False
    return encoding in (None, "utf-8")


_deliver_message = kombu_redis.Transport._deliver
kombu_redis.loads, kombu_redis.Transport._deliver = _loads, _deliver


def _establish_connection(self: Any) -> Any:
    """Connect to RabbitMQ; with TLS ask for a certificate of that host.

    kombu 5.7 would take one of any host, and fails at what an address may say of certificates:
    `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile` and `ssl_cert_reqs`, as for Redis.
    """
    if self.client.ssl:
        asked = self.client.ssl if isinstance(self.client.ssl, dict) else {}
        asked = {name.removeprefix("ssl_"): value for name, value in asked.items()}
        if asked.get("cert_reqs") is not ssl.CERT_NONE:
            asked.setdefault("server_hostname", self.client.hostname)
        self.client.ssl = asked or True
    return _connect_amqp(self)


_connect_amqp = kombu_amqp.Transport.establish_connection
kombu_amqp.Transport.establish_connection = _establish_connection
