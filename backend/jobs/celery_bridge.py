"""The one Celery instance: what its messages do, what its slots and its beat are.

Celery carries a doorbell from the web to a worker's free slot, and keeps the slots' processes
alive. What it could also do (results, retries, countdowns, schedules, revocation) lives in the
ledger, where it survives a broker that forgets.
"""

import os
import signal
import sys
from contextlib import suppress
from functools import cache, cached_property
from typing import Any

import billiard
import structlog
from celery import Celery, Task
from celery.beat import Scheduler
from celery.exceptions import Reject
from celery.signals import (
    setup_logging,
    task_failure,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
)
from flask import Flask
from kombu import Exchange
from kombu import Queue as BrokerQueue
from sqlalchemy.exc import SQLAlchemyError

from backend.config import Settings
from backend.db import db
from backend.jobs import processes, steward, workers, workspace
from backend.jobs.broker import TASK, BrokerDepths, BrokerDoorbell
from backend.jobs.celery_worker import (
    CLOSING,
    DRAINED,
    LoneWorker,
    PatientEvents,
    context_of_worker,
    page,
)
from backend.jobs.claims import Slot
from backend.jobs.kinds import Queue
from backend.jobs.runner import Watch

log = structlog.get_logger(__name__)


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
        worker_consumer="backend.jobs.celery_worker:DoorbellConsumer",
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
                    page[DRAINED] = True
                    raise Reject(requeue=True)

    return celery


@cache
def _watch(slot: Slot) -> Watch:
    """The watch of this process, which keeps the attempts' process from message to message."""
    return Watch(slot, is_closing=lambda: bool(page[CLOSING]), adopts=True)


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
    with context_of_worker():
        db.engine.dispose(close=False)


@worker_process_shutdown.connect
def _leave_slot(exitcode: int, **_: object) -> None:
    """Save the second in which billiard would have the worker read that a slot ends."""
    if page[CLOSING]:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exitcode)


@worker_ready.connect
def _report_for_duty(sender: Any, **_: object) -> None:
    node = sender.hostname
    queues = [found.name for found in sender.task_consumer.queues]
    slots = sender.controller.concurrency

    def look_after() -> None:
        if page[CLOSING]:  # its slots end as they are told to, and it signs off
            return
        with context_of_worker(), suppress(SQLAlchemyError):
            workers.report(node, queues, slots)
            workers.bury_slots(node)
            workspace.sweep(sender.app.flask_app.config["SLUICE"])
        see_whether_drained()

    def see_whether_drained() -> None:
        with context_of_worker(), suppress(SQLAlchemyError):
            page[DRAINED] = workers.is_drained(node)
        sender.heed()

    def rest() -> None:
        if page[DRAINED] or sender.rests:
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
