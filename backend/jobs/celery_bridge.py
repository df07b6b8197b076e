"""Everything Celery and kombu: the one Celery instance, the doorbell, workers, beat.

Celery carries a doorbell from the web to a worker's free slot, and keeps the slots' processes
alive. What it could also do (results, retries, countdowns, schedules, revocation) lives in the
ledger, where it survives a broker that forgets.
"""

import mmap
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from typing import Any
from uuid import UUID

import structlog
from celery import Celery, Task
from celery.app.events import Events
from celery.apps.worker import Worker
from celery.beat import Scheduler
from celery.events import EventDispatcher
from celery.signals import (
    setup_logging,
    task_failure,
    worker_process_init,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)
from flask import Flask
from kombu import Connection, Exchange
from kombu import Queue as BrokerQueue
from kombu.transport import redis as kombu_redis
from kombu.utils import json as kombu_json
from sqlalchemy.exc import SQLAlchemyError

from backend.config import Settings
from backend.db import db
from backend.jobs import metrics, processes, steward, workers, workspace
from backend.jobs.batches import RINGS_AT_ONCE as MOST_WAITING
from backend.jobs.claims import Slot
from backend.jobs.kinds import Queue
from backend.jobs.runner import Watch

log = structlog.get_logger(__name__)

TASK = "sluice.run"
BROKER_SECONDS = 1.0  # how long a publish may take before the steward is left to ring
BREAK_SECONDS = 2.0  # after a failed publish, nothing is tried for so long
LOOK_AFTER_RINGS = 20  # rings for a queue between two looks at how many messages wait in it


class PatientDispatcher(EventDispatcher):  # type: ignore[misc] # Celery ships no types
    """Sends events once, and keeps those that a broker that is away did not take.

    Celery would try a heartbeat again without end, under a lock that a worker which stops needs.
    """

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        super()._publish(event, producer, routing_key, **{**options, "retry": False})


class PatientEvents(Events):  # type: ignore[misc] # Celery ships no types
    """Celery's events, by the dispatcher above."""

    dispatcher_cls = f"{__name__}:PatientDispatcher"


class LoneWorker(Worker):  # type: ignore[misc] # Celery ships no types
    """A worker that does not look for others before it starts, nor talks to them afterwards.

    The ledger is what workers share. To look takes a second of each start, and to talk a message
    to every worker for each that every worker sends.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "without_mingle": True, "without_gossip": True})


class LedgerCelery(Celery):  # type: ignore[misc] # Celery ships no types
    """Celery with the worker above."""

    @cached_property
    def Worker(self) -> type[LoneWorker]:  # noqa: N802 - Celery's own name
        """The worker's class, bound to this instance."""
        bound: type[LoneWorker] = self.subclass_with_self(LoneWorker, name="Worker")
        return bound


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


def _loads(text: str) -> Any:
    """What JSON says; None for what is none."""
    try:
        return kombu_json.loads(text)
    except ValueError:
        return None


def _deliver(self: Any, message: Any, queue_name: str) -> None:
    """Hand a message on, and drop what lies in a queue of Redis and is none.

    kombu 5.7 would let the error end the worker, in the middle of its jobs.
    """
    if isinstance(message, dict) and isinstance(message.get("properties"), dict):
        _deliver_message(self, message, queue_name)
    else:
        log.warning("message_dropped", queue=queue_name)


_deliver_message = kombu_redis.Transport._deliver
kombu_redis.loads, kombu_redis.Transport._deliver = _loads, _deliver


def make_celery(app: Flask) -> Celery:
    """The Celery instance of an application. Loading it connects to nothing."""
    settings: Settings = app.config["SLUICE"]
    celery = LedgerCelery("sluice", broker=settings.broker_url, events=PatientEvents)
    celery.conf.update(
        task_queues=[BrokerQueue(name, Exchange(name), routing_key=name) for name in Queue],
        task_default_queue=Queue.DEFAULT,
        task_create_missing_queues=False,
        # The ledger is the truth: a broker that writes doorbells to its disk would only be slower.
        task_default_delivery_mode="transient",
        task_ignore_result=True,
        result_backend=None,
        # Late, so that a slot that is busy reserves no second message that another could serve.
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=settings.deploy_grace_seconds,
        worker_hijack_root_logger=False,
        # Flower and `celery events` turn them on while they look; they cost a millisecond a job.
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # `priority`: a worker serves its queues in the order of its -Q.
        # `ack_emulation`: Redis need not know what a worker holds, as nothing of it is put back.
        broker_transport_options={"queue_order_strategy": "priority", "ack_emulation": False},
        beat_scheduler="backend.jobs.celery_bridge:LedgerScheduler",
        timezone="UTC",
    )
    celery.flask_app = app

    @celery.task(name=TASK, bind=True)
    def run(self: Task, job_id: str) -> None:
        """Run what is ready in the slot's queues, until nothing is."""
        queues = tuple(self.app.amqp.queues.consume_from)
        with app.app_context():
            name = f"{self.request.hostname}/{os.getpid()}"
            _watch(Slot(name, queues, settings.lease_seconds)).serve()

    return celery


# Set as the worker begins to shut down, and seen by its slots' processes: they share the page.
_closing = mmap.mmap(-1, 1)


@worker_shutting_down.connect
def _claim_no_more(**_: object) -> None:
    _closing[0] = 1


@cache
def _watch(slot: Slot) -> Watch:
    """The watch of this process, which keeps the attempts' process from message to message."""
    return Watch(slot, is_closing=lambda: bool(_closing[0]), adopts=True)


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


def connect_broker(app: Flask, settings: Settings) -> None:
    """Give the application its Celery instance, its doorbell, and its view of the queues."""
    celery = make_celery(app)
    app.extensions["sluice.celery"] = celery
    app.extensions["sluice.doorbell"] = BrokerDoorbell(celery)
    app.extensions["sluice.broker_depths"] = BrokerDepths(settings.broker_url)


# ---------------------------------------------------------------- workers


@setup_logging.connect
def _keep_our_logging(**_: object) -> None:
    """Celery leaves logging alone when this signal has a receiver."""


@worker_process_init.connect
def _enter_slot(**_: object) -> None:
    processes.die_with_parent()
    processes.adopt_orphans()
    with _context():
        db.engine.dispose(close=False)


@worker_ready.connect
def _report_for_duty(sender: Any, **_: object) -> None:
    node = sender.hostname
    queues = [found.name for found in sender.task_consumer.queues]
    slots = sender.controller.concurrency

    def look_after() -> None:
        with _context(), suppress(SQLAlchemyError):
            workers.report(node, queues, slots)
            workers.bury_slots(node, lambda: sender.pool.info["processes"])
            workspace.sweep(sender.app.flask_app.config["SLUICE"])

    sender.timer.call_repeatedly(workers.REPORT_SECONDS, look_after)
    look_after()
    _LOOK_AFTER[node] = look_after


_LOOK_AFTER: dict[str, Any] = {}


@task_failure.connect
def _slot_lost(sender: Any = None, **_: object) -> None:
    """A slot's process died in mid-job: do not wait for the lease to say so."""
    for look_after in _LOOK_AFTER.values():
        look_after()


@worker_shutdown.connect
def _sign_off(sender: Any, **_: object) -> None:
    with _context(), suppress(SQLAlchemyError):
        workers.leave(sender.hostname)


@contextmanager
def _context() -> Iterator[None]:
    from celery import current_app as celery

    with celery.flask_app.app_context():
        yield
        db.session.remove()
        db.engine.dispose()  # slots are forked from this process: no connection may go along


# ---------------------------------------------------------------- beat


class LedgerScheduler(Scheduler):  # type: ignore[misc] # Celery ships no types
    """Beat's clockwork, driven by the ledger: due schedules and the steward's duties.

    Needs neither a schedule file nor the broker, and any number may run at once.
    """

    def setup_schedule(self) -> None:
        """The schedules are declared in `wiring`; there is nothing to read."""

    def tick(self, *_: object, **__: object) -> float:
        """Do what is due; return the seconds until the next look."""
        app: Flask = self.app.flask_app
        settings: Settings = app.config["SLUICE"]
        with app.app_context():
            steward.tick()
        return min(settings.reconcile_seconds, 1.0)

    def close(self) -> None:
        """Nothing is held open."""
