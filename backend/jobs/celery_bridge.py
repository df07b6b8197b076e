"""Everything Celery and kombu: the one Celery instance, the doorbell, workers, beat.

Celery carries a doorbell from the web to a worker's free slot, and keeps the slots' processes
alive. What it could also do (results, retries, countdowns, schedules, revocation) lives in the
ledger, where it survives a broker that forgets.
"""

import mmap
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from typing import Any

import billiard
import structlog
from billiard import pool as billiard_pool
from celery import Celery, Task
from celery.app.events import Events
from celery.apps.worker import Worker
from celery.beat import Scheduler
from celery.events import EventDispatcher
from celery.exceptions import Reject
from celery.signals import (
    setup_logging,
    task_failure,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
)
from celery.worker import state
from celery.worker.consumer import Consumer
from flask import Flask
from kombu import Exchange
from kombu import Queue as BrokerQueue
from sqlalchemy.exc import SQLAlchemyError

from backend.config import Settings
from backend.db import db
from backend.jobs import processes, steward, workers, workspace
from backend.jobs.broker import TASK, BrokerDepths, BrokerDoorbell
from backend.jobs.claims import Slot
from backend.jobs.kinds import Queue
from backend.jobs.runner import LAST_SECONDS as RECORD_SECONDS
from backend.jobs.runner import REAP_SECONDS, Watch

log = structlog.get_logger(__name__)


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

    Told to end (SIGTERM, SIGQUIT, SIGHUP, Ctrl-C), it claims no more, lets what runs end within
    DEPLOY_GRACE_SECONDS, and then ends its slots, which hand their jobs back; told again, it ends
    them at once, and told a third time itself. A signal does no more than to say so: Celery would
    shut down in its handler, on top of whatever was half done, and wait for what can then not be
    finished.
    """

    is_told = False
    slots_told = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "without_mingle": True, "without_gossip": True})

    def install_platform_tweaks(self, worker: Worker) -> None:
        """Have signals do what is said above instead of what Celery has them do."""
        super().install_platform_tweaks(worker)
        self.parent = os.getpid()
        self.woken, self.wakes = os.pipe()
        os.set_blocking(self.wakes, False)
        for each in (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, self._told_to_end)
        signal.signal(signal.SIGALRM, self._time_is_up)

    def _told_to_end(self, *_: object) -> None:
        if os.getpid() != self.parent:  # a slot that was forked just now, and has no job
            os._exit(os.EX_OK)
        if self.is_told:
            self._time_is_up()
        else:
            self._begin_to_end()

    def _begin_to_end(self) -> None:
        self.is_told = _page[CLOSING] = True
        state.should_stop = os.EX_OK
        signal.setitimer(signal.ITIMER_REAL, self._grace() or WAIT_AT_LEAST)
        with suppress(BlockingIOError):
            os.write(self.wakes, b"\0")

    def _grace(self) -> float:
        settings: Settings = self.app.flask_app.config["SLUICE"]
        return settings.deploy_grace_seconds

    def _time_is_up(self, *_: object) -> None:
        """Have every slot hand back its job and end; also a job of which it was not heard yet."""
        if self.slots_told:  # they have had their time, or the broker does not answer
            os._exit(os.EX_SOFTWARE)
        self.slots_told = True
        signal.setitimer(signal.ITIMER_REAL, END_SECONDS)
        pool = self.pool._pool if self.pool else None
        for process in list(pool._pool) if pool else ():
            with suppress(ProcessLookupError):
                if process.pid is not None:
                    os.kill(process.pid, signal.SIGQUIT)

    def stop(self, *args: Any, **options: Any) -> None:
        """End in good order, whoever asks for it, within the grace, `END_SECONDS` and a little."""
        if not self.is_told:
            self._begin_to_end()
        log.info("worker_ends", worker=self.hostname, grace_seconds=self._grace())
        super().stop(*args, **options)

    def on_stopped(self) -> None:
        """Sign off."""
        with _context(), suppress(SQLAlchemyError):
            workers.leave(self.hostname)
        super().on_stopped()
        self.slots_told = True
        signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)


class DoorbellConsumer(Consumer):  # type: ignore[misc] # Celery ships no types
    """What takes messages from the broker: doorbells, and of each no more than that it rang.

    A worker that is drained takes none, and puts back what it had taken before it knew: another
    is to be woken by it. All of this is done in the thread of the event loop.
    """

    rests = False

    def heed(self) -> None:
        """Take messages or leave them to others, as the worker is drained or not."""
        if self.task_consumer is None or _page[CLOSING]:
            return
        if _page[DRAINED]:
            self.task_consumer.cancel()
            if not self.rests:
                log.info("worker_drained", worker=self.hostname)
        elif self.rests:
            self.task_consumer.consume()
            log.info("worker_undrained", worker=self.hostname)
        self.rests = bool(_page[DRAINED])

    def on_ready(self) -> None:
        """After each connect, which begins to take messages."""
        super().on_ready()
        self.hub.add_reader(self.controller.woken, os.read, self.controller.woken, 1)
        self.heed()

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Hand a doorbell on, and drop any other message: Celery trusts all that one says."""
        ring = super().create_task_handler(*args, **options)

        def hear(message: Any) -> None:
            if not _is_doorbell(message):
                self.drop(message)
            elif _page[DRAINED]:
                message.requeue()
                self.call_soon(self.heed)
            else:
                for name, known in (("headers", HEADERS), ("properties", PROPERTIES)):
                    said = getattr(message, name)
                    setattr(message, name, {each: said[each] for each in known if each in said})
                ring(message)

        return hear

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop what kombu cannot read."""
        self.drop(message)

    def drop(self, message: Any) -> None:
        """Take a message away, and say so."""
        log.warning("message_dropped", queue=message.delivery_info.get("routing_key"))
        message.ack()


# What is heard of a doorbell: what Celery needs, and shows of it.
HEADERS = ("lang", "task", "id", "argsrepr", "kwargsrepr", "origin")
PROPERTIES = ("delivery_tag", "delivery_info", "body_encoding")  # which kombu adds for Redis


def _is_doorbell(message: Any) -> bool:
    said = message.headers
    if said.get("task") != TASK or not isinstance(said.get("id"), str):
        return False
    if not all(isinstance(said.get(name, ""), str) for name in HEADERS):
        return False
    try:
        match message.decode():
            case [[str()], dict(named), dict(embedded)]:
                return not named and not any(embedded.values())
    except Exception:  # noqa: BLE001 - kombu reads types of its own, and what it raises is anything
        return False
    return False


class LedgerCelery(Celery):  # type: ignore[misc] # Celery ships no types
    """Celery with the worker above."""

    @cached_property
    def Worker(self) -> type[LoneWorker]:  # noqa: N802 - Celery's own name
        """The worker's class, bound to this instance."""
        bound: type[LoneWorker] = self.subclass_with_self(LoneWorker, name="Worker")
        return bound


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
        # After a reconnect Celery would have as many slots stand idle as others run jobs.
        worker_enable_prefetch_count_reduction=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_consumer=f"{__name__}:DoorbellConsumer",
        worker_hijack_root_logger=False,
        # Flower and `celery events` turn them on while they look; they cost a millisecond a job.
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # RabbitMQ hangs up on who has held a message for half an hour, as a busy slot does.
        broker_channel_error_retry=True,
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
            worker = self.request.hostname
            slot = Slot(workers.slot_name(worker, os.getpid()), queues, settings.lease_seconds)
            if _watch(slot).serve():
                return
            with suppress(SQLAlchemyError):
                if workers.is_drained(worker):
                    _page[DRAINED] = True
                    raise Reject(requeue=True)

    return celery


WAIT_AT_LEAST = 0.001  # seconds: a timer of none would never go off
END_SECONDS = REAP_SECONDS + RECORD_SECONDS + 5.0  # what slots that are told to end may take
LAST_SECONDS = 3.0  # for what is left to be done when all slots have ended
# A slot that ends waits for its last word to be read, for half a minute if nobody reads it. What
# it has to say is in the ledger.
billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10  # tenths of a second

# What the worker and its slots' processes tell each other: that it begins to shut down, and that
# it is drained. They share the page.
_page = mmap.mmap(-1, 2)
CLOSING, DRAINED = range(2)


@cache
def _watch(slot: Slot) -> Watch:
    """The watch of this process, which keeps the attempts' process from message to message."""
    return Watch(slot, is_closing=lambda: bool(_page[CLOSING]), adopts=True)


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
    if os.getppid() != billiard.current_process()._parent_pid:
        os._exit(os.EX_SOFTWARE)
    processes.adopt_orphans()
    with _context():
        db.engine.dispose(close=False)


@worker_process_shutdown.connect
def _leave_slot(exitcode: int, **_: object) -> None:
    """Save the second in which billiard would have the worker read that a slot ends."""
    if _page[CLOSING]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exitcode)


@worker_ready.connect
def _report_for_duty(sender: Any, **_: object) -> None:
    node = sender.hostname
    queues = [found.name for found in sender.task_consumer.queues]
    slots = sender.controller.concurrency

    def look_after() -> None:
        if _page[CLOSING]:  # its slots end as they are told to, and it signs off
            return
        with _context(), suppress(SQLAlchemyError):
            workers.report(node, queues, slots)
            workers.bury_slots(node)
            workspace.sweep(sender.app.flask_app.config["SLUICE"])
        see_whether_drained()

    def see_whether_drained() -> None:
        with _context(), suppress(SQLAlchemyError):
            _page[DRAINED] = workers.is_drained(node)
        sender.heed()

    def rest() -> None:
        if _page[DRAINED] or sender.rests:
            see_whether_drained()

    sender.timer.call_repeatedly(workers.REPORT_SECONDS, look_after)
    sender.timer.call_repeatedly(workers.REST_SECONDS, rest)
    look_after()
    _LOOK_AFTER[node] = look_after


_LOOK_AFTER: dict[str, Any] = {}


@task_failure.connect
def _slot_lost(sender: Any = None, **_: object) -> None:
    """A slot's process died in mid-job: do not wait for the lease to say so."""
    for look_after in _LOOK_AFTER.values():
        look_after()


@contextmanager
def _context() -> Iterator[None]:
    from celery import current_app as celery

    with celery.flask_app.app_context():
        try:
            yield
        finally:
            db.session.remove()
            db.engine.dispose()  # slots are forked from this process: no connection may go along


# ---------------------------------------------------------------- beat


LOOK_SECONDS = 5.0  # for which a look may go on after beat was told to end


class LedgerScheduler(Scheduler):  # type: ignore[misc] # Celery ships no types
    """Beat's clockwork, driven by the ledger: due schedules and the steward's duties.

    Needs neither a schedule file nor the broker, and any number may run at once.
    """

    told_to_end = False
    ticks = False

    def setup_schedule(self) -> None:
        """The schedules are declared in `wiring`; there is nothing to read."""

    def tick(self, *_: object, **__: object) -> float:
        """Do what is due; return the seconds until the next look."""
        app: Flask = self.app.flask_app
        settings: Settings = app.config["SLUICE"]
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._told_to_end)
        self.ticks = True
        try:
            with app.app_context():
                steward.tick(lambda: self.told_to_end)
        finally:
            self.ticks = False
        if self.told_to_end:
            raise SystemExit
        return min(settings.reconcile_seconds, 1.0)

    def _told_to_end(self, *_: object) -> None:
        """End between two looks. Raised in one, it could be lost: Python drops it in a callback.

        A look that takes too long, or at a second word, is broken off, as by a power cut.
        """
        if self.told_to_end:
            os._exit(os.EX_OK)
        self.told_to_end = True
        if not self.ticks:
            raise SystemExit
        signal.signal(signal.SIGALRM, self._told_to_end)
        signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS)

    def close(self) -> None:
        """Nothing is held open."""
