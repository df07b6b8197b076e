"""What a worker's parent process is: Celery's, with the ways in which ours must be otherwise.

It hands doorbells to slots, ends when it is told to, and leaves alone whatever is no doorbell.
"""

import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog
from billiard import pool as billiard_pool
from celery.app.events import Events
from celery.apps.worker import Worker
from celery.events import EventDispatcher
from celery.worker import state
from celery.worker.consumer import Consumer
from sqlalchemy.exc import SQLAlchemyError

from backend.config import Settings
from backend.db import db
from backend.jobs import workers
from backend.jobs.broker import TASK
from backend.jobs.runner import LAST_SECONDS as RECORD_SECONDS
from backend.jobs.runner import REAP_SECONDS

log = structlog.get_logger(__name__)

WAIT_AT_LEAST = 0.001  # seconds: a timer of none would never go off
END_SECONDS = REAP_SECONDS + RECORD_SECONDS + 5.0  # what slots that are told to end may take
LAST_SECONDS = 3.0  # for what is left to be done when all slots have ended
# A slot that ends waits for its last word to be read, for half a minute if nobody reads it. What
# it has to say is in the ledger.
billiard_pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = 10  # tenths of a second

# What the worker and its slots' processes tell each other: that it begins to shut down, and that
# it is drained. They share the page.
page = mmap.mmap(-1, 2)
CLOSING, DRAINED = range(2)


@contextmanager
def context_of_worker() -> Iterator[None]:
    """The application's context, for a while, and no connection kept afterwards."""
    from celery import current_app as celery

    with celery.flask_app.app_context():
        try:
            yield
        finally:
            db.session.remove()
            db.engine.dispose()  # slots are forked from this process: no connection may go along


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
        self.is_told = page[CLOSING] = True
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
        with context_of_worker(), suppress(SQLAlchemyError):
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
        if self.task_consumer is None or page[CLOSING]:
            return
        if page[DRAINED]:
            self.task_consumer.cancel()
            if not self.rests:
                log.info("worker_drained", worker=self.hostname)
        elif self.rests:
            self.task_consumer.consume()
            log.info("worker_undrained", worker=self.hostname)
        self.rests = bool(page[DRAINED])

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
            elif page[DRAINED]:
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
