"""A worker's slot: it watches over the process that runs its attempts.

The attempts run in a process of their own (see `body`). This one, which never runs a kind's code,
renews the lease, stores progress and log lines, carries a cancel to the attempt, enforces the
limits, and, when the attempt's process is gone without a word, says so in the ledger at once.
"""

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from flask import current_app
from sqlalchemy import select as sql_select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.config import Settings
from backend.db import db, survive_crashes_alone, transaction
from backend.jobs import actions, attempts, metrics, processes, workspace
from backend.jobs.attempts import Lease
from backend.jobs.body import GO, IDLE, RETIRED, UNBEGUN, Body
from backend.jobs.claims import Fence, Slot
from backend.jobs.kinds import JobKind, Kinds
from backend.jobs.listener import Listener, in_ledger
from backend.jobs.models import IS_LEASED, Attempt, Job
from backend.jobs.outcomes import patiently
from backend.jobs.settling import Ending, Why, settle
from backend.jobs.shared_page import Begun, SharedPage
from backend.jobs.signals import ring

log = structlog.get_logger(__name__)

WRITE_PAUSE = 0.25  # seconds: at most four durable writes of progress a second
LOOK_PAUSE = 1.0  # seconds between looks for a cancel
ALL = 2**32 - 1  # attempts that a slot asks for when it wants whatever is ready
# What a slot is ended with: by its worker with SIGQUIT, with SIGTERM along with its group.
ENDINGS = (signal.SIGTERM, signal.SIGQUIT)
REAP_SECONDS = 5.0  # for which a slot tries to end what a dead attempt has left running
LAST_SECONDS = 5.0  # for which a slot that is told to end tries to reach the ledger
CRASHED = 70  # sysexits.h, EX_SOFTWARE


@dataclass(slots=True)
class Watched:
    """The attempt that runs, and when its slot last did what for it. Times are monotonic."""

    begun: Begun
    kind: JobKind[Any, Any] | None
    renewed: float
    looked: float
    wrote: float = 0.0
    asked: float | None = None
    interrupted: bool = False
    why: Why | None = None  # it was killed
    relieved: bool = False


@dataclass(slots=True)
class Watch:
    """Has a slot's attempts run, one at a time, and watches over them.

    `is_closing` says whether the worker is to end: nothing more is claimed then. `adopts` says
    that this process has no other children, so that all it has are what attempts have left.
    """

    slot: Slot
    is_closing: Callable[[], bool] = lambda: False
    adopts: bool = False
    settings: Settings = field(default_factory=lambda: current_app.config["SLUICE"])
    page: SharedPage = field(default_factory=SharedPage)
    pid: int = 0
    control: socket.socket | None = None
    heard: Listener = field(default_factory=Listener)
    watched: Watched | None = None
    rested: float = 0.0  # when an attempt last ran, or was asked for
    to_end: int = 0  # the signal that told this process to end

    def serve(self, most: int = ALL) -> int:
        """Run what is ready, until nothing is or this process is to end; return how many ran.

        The process that runs the attempts stays for the next call.
        """
        first, self.to_end = self.page.count, 0
        with self._termination_noted():
            while not self.to_end and (done := self.page.count - first) < most:
                code = self._go(most - done)
                if code is None:
                    break
                if code != RETIRED and self.page.count - first == done:
                    log.error("attempts_cannot_begin", worker=self.slot.name, exit_code=code)
                    break
        return self.page.count - first

    def close(self) -> None:
        """End the process that waits for the next attempt."""
        if self.control is not None:
            self.control.close()
            _, status = os.waitpid(self.pid, 0)
            self._bury(status)
        self.page.close()

    @contextmanager
    def _termination_noted(self) -> Iterator[None]:
        """A deploy ends the attempt at once; its job is then handed back."""

        def note(number: int, _: object) -> None:
            self.to_end = number
            if self.pid:
                processes.kill_tree(self.pid)

        before = {each: signal.signal(each, note) for each in ENDINGS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
            # A worker that ends has told its slots' processes to end after what they are at.
            if self.to_end and not self.is_closing():
                os.kill(os.getpid(), self.to_end)

    # ------------------------------------------------------------ the process

    def _go(self, most: int) -> int | None:
        """Have attempts run; return None when nothing is ready any more, or the exit code."""
        if not self.pid:
            self._start()
        status, idle, self.rested = None, False, time.monotonic()
        try:
            with suppress(BrokenPipeError):  # it has ended; that is seen below
                self._talk().sendall(GO.pack(most))
            while status is None and not idle:
                idle = self._wait(WRITE_PAUSE)
                self._tend()
                status = self._status()
        finally:
            if status is None and not idle:  # the watch itself failed: nothing runs unwatched
                processes.kill_tree(self.pid)
                _, status = os.waitpid(self.pid, 0)
            if status is not None:
                self._bury(status)
        return None if status is None else os.waitstatus_to_exitcode(status)

    def _talk(self) -> socket.socket:
        if self.control is None:
            raise RuntimeError("no process runs")
        return self.control

    def _start(self) -> None:
        self.control, theirs = socket.socketpair()
        lines = self.heard.open()
        # Neither SQLite's locks nor PostgreSQL's protocol outlive a fork: go with none open.
        db.session.remove()
        db.engine.dispose()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:  # no more processes, or no memory for one
            for each in (self.control, theirs):
                each.close()
            self.heard.close()
            os.close(lines)
            raise
        if self.pid == 0:
            self._become_body(parent, theirs, lines)
        theirs.close()
        os.close(lines)
        if self.to_end:  # told in between
            processes.kill_tree(self.pid)

    def _become_body(self, parent: int, control: socket.socket, lines: int) -> None:
        """Be the attempts' process. Does not return."""
        self._talk().close()
        self.heard.close()
        code = CRASHED
        try:
            processes.lead_a_group(parent, ENDINGS)
            processes.mark_children(parent)
            survive_crashes_alone(db.engine)
            kinds: Kinds = current_app.extensions["sluice.kinds"]
            code = Body(
                slot=self.slot,
                settings=self.settings,
                kinds=kinds,
                page=self.page,
                control=control,
                lines=lines,
                is_closing=self.is_closing,
            ).serve()
        except BaseException:
            log.exception("attempt_crashed")
        finally:
            _last_words()
            os._exit(code)

    def _status(self) -> int | None:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return status if pid else None

    def _wait(self, seconds: float) -> bool:
        """Wait for a word of the process or for the time to pass; tell whether it is idle."""
        ready, _, _ = select.select([self._talk()], [], [], seconds)
        if not ready:
            return False
        said = b""
        with suppress(ConnectionError):
            said = self._talk().recv(4096)
        if not said:
            time.sleep(0.002)  # it is ending, or its function has closed what it did not open
        return said.endswith(IDLE)

    def _bury(self, status: int) -> None:
        """Leave nothing of a process that is dead, and record what it could not."""
        pid, self.pid = self.pid, 0
        processes.kill_group(pid)  # what it started and left behind
        clean = not self.adopts or processes.kill_children(REAP_SECONDS)
        self._notice()
        self.heard.read()
        self.heard.store()
        self.heard.close()
        self._talk().close()
        self.control = None
        begun = self.page.current()
        settle = partial(self._settle, os.waitstatus_to_exitcode(status))
        patience = LAST_SECONDS if self.to_end else self.settings.lease_seconds
        with suppress(SQLAlchemyError):
            patiently(settle, patience)
            self.heard.forget_recorded()
            if begun is not None:
                actions.tell_parent(begun.parent_id)
        if begun is not None:
            workspace.discard(self.settings, begun.fence)
        self.page.rest()
        self.watched = None
        if not clean:
            # Whatever it is that goes on starting processes, the worker ends it (see `workers`).
            log.error("attempt_goes_on", worker=self.slot.name)
            os._exit(CRASHED)

    # ------------------------------------------------------------ the attempt that runs

    def _notice(self) -> None:
        """See which attempt runs now."""
        begun = self.page.current()
        if begun is None:
            self.watched = None
        elif self.watched is None or self.watched.begun.number != begun.number:
            kinds: Kinds = current_app.extensions["sluice.kinds"]
            self.watched = Watched(begun, kinds.get(begun.kind), begun.started, begun.started)

    def _tend(self) -> None:
        """Do what is due. A ledger that cannot be reached stops none of it but the writing."""
        self._notice()
        self.heard.read()
        self.heard.store()
        watched, now = self.watched, time.monotonic()
        if watched is None:
            self._wake(now)
            return
        self.rested = now
        try:
            self._relieve(watched, now)
            self._write(watched, now)
        except SQLAlchemyError as error:
            db.session.rollback()
            log.warning("ledger_unreachable", error=type(error).__name__)
            watched.looked = watched.wrote = now
        if now - watched.renewed > self.settings.lease_seconds:
            self._kill(watched, "lease_lost")
        self._limit(watched, now)

    def _wake(self, now: float) -> None:
        """End a process that stands still between two attempts, as none does for so long."""
        # For one lease it may try to record what is done, for another to claim.
        if now - self.rested < 2 * self.settings.lease_seconds:
            return
        with self.page.holding(None) as rests:
            if rests:
                log.error("process_stands_still", worker=self.slot.name)
                processes.kill_tree(self.pid)

    def _relieve(self, watched: Watched, now: float) -> None:
        """Record what the process has done, and give back what it has not begun.

        It claims and records several at once while attempts are short; here is one that is not.
        """
        others = bool(watched.begun.others or self.heard.unrecorded)
        if watched.relieved or not others or now - watched.begun.started < WRITE_PAUSE:
            return
        with self.page.relieving(watched.begun.number) as runs, transaction() as session:
            if not runs:
                return
            attempts.finish_all(session, self.heard.unrecorded)
            for job in self._leased(session):
                fence = attempts.fence_of(job)
                if fence != watched.begun.fence:
                    attempts.give_back(session, fence, "handed_back", note=UNBEGUN, charged=False)
                    ring(session, job.queue, [job.id])
        watched.relieved = True
        self.heard.forget_recorded()

    def _leased(self, session: Session) -> Sequence[Job]:
        mine = (IS_LEASED, Job.worker == self.slot.name, Job.token.is_not(None))
        return session.scalars(sql_select(Job).where(*mine)).all()

    def _write(self, watched: Watched, now: float) -> None:
        # First, so that nothing that fails keeps the lease from being renewed.
        if now - watched.renewed >= self.settings.heartbeat_seconds:
            lease = in_ledger(attempts.renew, watched.begun.fence, self.settings.lease_seconds)
            self._heed(watched, lease)
            watched.renewed = now
        elif now - watched.looked >= LOOK_PAUSE:
            self._heed(watched, attempts.wishes(db.session(), watched.begun.fence))
            db.session.commit()
        if now - watched.wrote >= WRITE_PAUSE:
            progress = self.page.read(watched.begun.number)
            if progress is not None:
                watched.wrote = now
                in_ledger(attempts.report, watched.begun.fence, progress)
                actions.tell_parent(watched.begun.parent_id)

    def _heed(self, watched: Watched, lease: Lease | None) -> None:
        watched.looked = time.monotonic()
        if lease is None:
            if not _has_recorded_its_end(watched.begun.fence):
                self._kill(watched, "lease_lost")
        elif lease.force:
            self._kill(watched, "cancelled")
        elif lease.cancelling and watched.asked is None:
            watched.asked = watched.looked
            self.page.ask_to_stop(watched.begun.number)

    def _limit(self, watched: Watched, now: float) -> None:
        ran = timedelta(seconds=now - watched.begun.started)
        if watched.kind is None:
            return
        if ran > watched.kind.hard_limit:
            self._kill(watched, "time_limit")
        elif ran > watched.kind.soft_limit and not watched.interrupted:
            watched.interrupted = True
            self.page.interrupt(watched.begun.number)
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
        if watched.asked and now - watched.asked > self.settings.cancel_grace_seconds:
            self._kill(watched, "cancelled")

    def _kill(self, watched: Watched, why: Why) -> None:
        with self.page.holding(watched.begun.number) as runs:
            if not runs:  # it has ended meanwhile, and the process may be at the next
                return
            if watched.why is None:
                watched.why = why
                log.warning("attempt_killed", why=why, **self._ids(watched.begun.fence))
            processes.kill_tree(self.pid)

    # ------------------------------------------------------------ what it could not say

    def _ids(self, fence: Fence) -> dict[str, Any]:
        """What a line of the log has to find an attempt by."""
        begun = self.page.current()
        ids = {"job_id": str(fence.job_id), "attempt": fence.attempt, "worker": self.slot.name}
        return {**ids, "request_id": begun.request_id} if begun and begun.fence == fence else ids

    def _seconds(self, fence: Fence) -> float:
        begun = self.page.current()
        return time.monotonic() - begun.started if begun and begun.fence == fence else 0.0

    def _settle(self, code: int) -> None:
        """Record the end of attempts whose process could not."""
        watched = self.watched
        ending = Ending(
            code=code,
            by_deploy=bool(self.to_end),
            why=watched.why if watched else None,
            hard_limit=watched.kind.hard_limit if watched and watched.kind else None,
        )
        with transaction() as session:
            attempts.finish_all(session, self.heard.unrecorded)
            for job in self._leased(session):
                fence = attempts.fence_of(job)
                had_begun = watched is not None and watched.begun.fence == fence
                word = settle(session, job, ending, had_begun=had_begun)
                log.info("attempt_ended", kind=job.kind, outcome=word, **self._ids(fence))
                metrics.count_attempt(job.kind, word, self._seconds(fence))


def _has_recorded_its_end(fence: Fence) -> bool:
    """Whether the attempt itself let go of the job, and not a steward who thought it dead."""
    outcome = db.session.scalars(
        sql_select(Attempt.outcome).where(Attempt.token == fence.token)
    ).one_or_none()
    db.session.commit()
    return outcome not in {None, "lost"}


def _last_words() -> None:
    """Let what the attempt rang for go out before its process ends."""
    flush = getattr(current_app.extensions["sluice.doorbell"], "flush", None)
    if flush is not None:
        flush(timeout_seconds=1.0)
    sys.stdout.flush()
    sys.stderr.flush()
