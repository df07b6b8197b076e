"""The attempts' own process: claims jobs, runs them, and records what came of each.

It is forked by the slot that watches over it (see `runner`), so that it can be killed with all
that it started, and a crash or a leak in a library ends with it. It takes job after job for as
long as each leaves it as it was; after one that does not it ends, and the next has a fresh one.
"""

import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.config import Settings
from backend.db import AWAY, db, transaction
from backend.jobs import actions, attempts, workspace
from backend.jobs.attempts import Claim, Level, Slot
from backend.jobs.kinds import Kinds
from backend.jobs.outcomes import PAUSE_SECONDS, Call, Outcome, Voice, unknown_kind
from backend.jobs.shared_page import SharedPage

log = structlog.get_logger(__name__)

# Exit codes: none that a library would choose, so that os._exit(0) is not taken for a success.
RETIRED, NOT_RECORDED = 101, 103
GO = struct.Struct("<I")  # the slot's word: take so many attempts at most
IDLE, SPOKEN = b"i", b"s"  # the answers: nothing is ready; an attempt that has logged is over
# Of all claims, those that ask first for a job that is overdue at a level drawn by lot.
AGED_SHARE = 0.25
HIGHEST_PRIORITY = 10
MOST_ATTEMPTS = 1000  # of one process
MOST_GROWTH_KIB = 64 * 1024  # of its memory, over all its attempts


@dataclass(slots=True, kw_only=True)
class Body:
    """The process: whose slot it is, and its ends of what joins it to the slot's own."""

    slot: Slot
    settings: Settings
    kinds: Kinds
    page: SharedPage
    control: socket.socket
    lines: int
    is_closing: Callable[[], bool]
    wanted: int = 0  # attempts that the slot still asks for
    left: int = MOST_ATTEMPTS
    newborn_kib: int = 0
    retires: bool = False

    def serve(self) -> int:
        """Take attempts whenever the slot says so; return the exit code."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self.newborn_kib = _peak_kib()
        while not self.retires and (word := self.control.recv(GO.size)):
            (self.wanted,) = GO.unpack(word)
            held = self._take()
            try:
                while held is not None:
                    held = self._attempt(held)
            except AWAY:
                log.exception("outcome_not_recorded")
                return NOT_RECORDED
            if not self.retires:
                self.control.sendall(IDLE)
        return RETIRED

    def _take(self, after: Claim | None = None) -> Claim | None:
        """Tell the batch of the job that has just ended, and claim the next one."""
        try:
            with transaction() as session:
                actions.tell_parent(after.parent_id if after else None)
                return self._claim(session)
        except SQLAlchemyError as error:
            # The jobs stay ready in the ledger; the steward rings for them again.
            log.warning("ledger_unreachable", error=type(error).__name__)
            db.session.remove()
            return None

    def _claim(self, session: Session) -> Claim | None:
        """Claim the next job, unless this process or its worker is to end."""
        if self.retires or not self.wanted or self.is_closing():
            return None
        aged = None
        if random.random() < AGED_SHARE:  # noqa: S311 - a lot, not a secret
            priority = random.randint(0, HIGHEST_PRIORITY)  # noqa: S311
            aged = Level(random.choice(self.slot.queues), priority)  # noqa: S311
        return attempts.claim(session, self.slot, aged=aged)

    def _attempt(self, held: Claim) -> Claim | None:
        """Run a job to its end; return the next one."""
        self.wanted, self.left = self.wanted - 1, self.left - 1
        structlog.contextvars.bind_contextvars(
            request_id=held.request_id,
            job_id=str(held.job_id),
            attempt=held.attempt,
            worker=self.slot.name,
        )
        started, before = time.monotonic(), _Traces.now()
        self.page.begin(held)
        voice = Voice(held, self.page, self.lines)
        kind = self.kinds.get(held.kind)
        call = Call(kind, held, self.settings, self.page, voice) if kind else None
        outcome = call.outcome() if call else unknown_kind(held)
        grown = _peak_kib() - self.newborn_kib > MOST_GROWTH_KIB
        self.retires = outcome.torn or grown or not self.left or not before.are_all()

        word, taken = self._record(held, call, outcome)
        workspace.discard(self.settings, held)
        self.page.rest()
        seconds = round(time.monotonic() - started, 3)
        log.info("attempt_ended", kind=held.kind, outcome=word, duration_seconds=seconds)
        with suppress(OSError):  # the function has closed what it did not open
            entry = json.dumps(["ended", held.kind, word, seconds])
            os.write(self.lines, entry.encode() + b"\n")
            if voice.has_spoken:
                self.control.sendall(SPOKEN)
        return taken if held.parent_id is None else self._take(after=held)

    def _record(self, held: Claim, call: Call | None, outcome: Outcome) -> tuple[str, Claim | None]:
        """Write the outcome, and claim the next job; return the word for it, and the claim.

        Both in one transaction, which halves what a short job costs; but a batch is told of its
        child in between. While the database is away, it is tried for as long as a lease lasts.
        """
        db.session.remove()  # whatever the function did to it
        until = time.monotonic() + self.settings.lease_seconds
        refused = False
        while True:
            try:
                with transaction() as session:
                    word = outcome.word if outcome.record(session) else "lost"
                    return word, self._claim(session) if held.parent_id is None else None
            except AWAY:
                # Perhaps it was written, and a job claimed with it: the slot hands that one back.
                self.retires = True
                db.session.remove()
                if time.monotonic() > until:
                    raise
                time.sleep(PAUSE_SECONDS)
            except Exception as error:
                if call is None or refused:
                    raise
                outcome, refused = call.failure(error), True  # of an effect: that is recorded too


class _Traces(NamedTuple):
    """What a function may leave behind in its process."""

    threads: int
    files: int
    folder: Path

    @classmethod
    def now(cls) -> "_Traces":
        if sys.platform != "linux":
            return cls(0, 0, Path())
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        return cls(threading.active_count(), files, Path.cwd())

    def are_all(self) -> bool:
        """Whether there are no others now, and no process is left that the function started."""
        # Those whose parents have ended are this process's own (see `runner`).
        return sys.platform == "linux" and self == self.now() and not _has_children()


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
