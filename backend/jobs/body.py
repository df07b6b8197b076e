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
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.config import Settings
from backend.db import AWAY, db, transaction
from backend.jobs import actions, attempts, claims, workspace
from backend.jobs.claims import Claim, Fence, Level, Slot
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
# A process whose attempts are short claims several jobs at once, and records their ends together.
SHORT_SECONDS = 0.01
MOST_AT_ONCE = 16
MOST_DELAY = 0.05  # seconds from the end of an attempt to its record
UNBEGUN = "It was claimed and had not begun."
MOST_ATTEMPTS = 1000  # of one process
# Of its memory, over all its attempts: a picture takes that much for a while, and a process that
# has loaded its libraries is worth keeping.
MOST_GROWTH_KIB = 256 * 1024


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
    at_once: int = 1  # jobs that the next claim takes
    held: deque[Claim] = field(default_factory=deque)  # claimed, and not begun
    done: dict[Fence, dict[str, Any]] = field(default_factory=dict)  # results to be recorded
    done_since: float = 0.0
    parents: set[UUID] = field(default_factory=set)  # batches of what is done
    unsure: bool = False  # whether jobs were claimed by a transaction whose end is not known

    def serve(self) -> int:
        """Take attempts whenever the slot says so; return the exit code."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        self.newborn_kib = _peak_kib()
        while not self.retires and (word := self.control.recv(GO.size)):
            (self.wanted,) = GO.unpack(word)
            try:
                while (held := self._next()) is not None:
                    self._attempt(held)
            except AWAY:
                log.exception("outcome_not_recorded")
                return NOT_RECORDED
            if not self.retires:
                self.control.sendall(IDLE)
        return RETIRED

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.retires or not self.wanted or self.is_closing()

    # ------------------------------------------------------------ claims

    def _next(self) -> Claim | None:
        """The next job to run; what is done is recorded before the next are claimed."""
        is_late = bool(self.done) and time.monotonic() - self.done_since > MOST_DELAY
        if self.is_over or is_late or not self.held:
            self._turn_over()
        return self.held.popleft() if self.held else None

    def _turn_over(self) -> None:
        """Record what is done, and claim the next jobs: in one transaction where that can be."""
        if self.done:
            finish = partial(attempts.finish_all, done=self.done)
            self._record(finish, take=not self.parents)
            self._say("recorded", [fence.token.hex for fence in self.done])
            self.done.clear()
            if not self.parents:
                return
        # A batch is told of its children once they are seen to have ended.
        parents = {*self.parents}
        self.parents.clear()
        self._tell(parents)

    def _tell(self, parents: Iterable[UUID]) -> None:
        """Tell batches of children that have ended, and claim the next jobs."""
        try:
            with transaction() as session:
                for parent_id in sorted(parents):
                    actions.tell_parent(parent_id)
                held = self._claim(session)
            self.held = held
        except SQLAlchemyError as error:
            # The steward releases what is to be released, and rings for what is ready.
            log.warning("ledger_unreachable", error=type(error).__name__)
            db.session.remove()
            # What could not be given back, and what may be claimed for all that is known, is the
            # slot's to give back once this process is gone.
            self.retires = self.retires or bool(self.held)
            self.held.clear()
            self.unsure = True

    def _claim(self, session: Session) -> deque[Claim]:
        """The jobs that this process holds from now on."""
        self.retires = self.retires or self.unsure  # the ledger can be reached again
        if self.is_over:
            for claim in self.held:
                attempts.give_back(session, claim, "handed_back", note=UNBEGUN, charged=False)
            return deque()
        if self.held:
            return self.held
        aged = None
        if random.random() < AGED_SHARE:  # noqa: S311 - a lot, not a secret
            priority = random.randint(0, HIGHEST_PRIORITY)  # noqa: S311 - as above
            aged = Level(random.choice(self.slot.queues), priority)  # noqa: S311 - as above
        most = min(self.at_once, self.wanted, self.left)
        return deque(claims.claim(session, self.slot, most=most, aged=aged))

    # ------------------------------------------------------------ one attempt

    def _attempt(self, held: Claim) -> None:
        """Run a job to its end, and record that at once or soon with others."""
        self.wanted, self.left = self.wanted - 1, self.left - 1
        structlog.contextvars.bind_contextvars(
            request_id=held.request_id,
            job_id=str(held.job_id),
            attempt=held.attempt,
            worker=self.slot.name,
        )
        started, before = time.monotonic(), _Traces.now()
        self.page.begin(held, others=len(self.held))
        voice = Voice(held, self.page, self.lines)
        kind = self.kinds.get(held.kind)
        call = Call(kind, held, self.settings, self.page, voice) if kind else None
        outcome = call.outcome() if call else unknown_kind(held)
        seconds = time.monotonic() - started
        grown = _peak_kib() - self.newborn_kib > MOST_GROWTH_KIB
        is_clean = before.are_all()
        self.retires = outcome.torn or grown or not self.left or not is_clean
        if not is_clean:
            # What was closed may have been the ledger's connections, or the way to the slot.
            db.session.remove()
            db.engine.dispose()

        is_short = is_clean and outcome.result is not None and seconds < SHORT_SECONDS
        self.at_once = min(2 * self.at_once, MOST_AT_ONCE) if is_short else 1
        if is_short and outcome.result is not None:
            word = outcome.word
            self._keep(held, outcome.result)
        else:
            word = self._end(held, call, outcome)
        workspace.discard(self.settings, held)
        if self.page.rest():
            self.held.clear()  # it took long, and the slot has given the others back
        # Only now: the next jobs are claimed with it, and those nobody has given back.
        if not is_short and held.parent_id is not None:
            self._tell([held.parent_id])
        shown = round(seconds, 3)
        log.info("attempt_ended", kind=held.kind, outcome=word, duration_seconds=shown)
        self._say("ended", held.kind, word, seconds)
        if voice.has_spoken:
            with suppress(OSError):  # the function has closed what it did not open
                self.control.sendall(SPOKEN)

    def _keep(self, held: Claim, result: dict[str, Any]) -> None:
        """Keep a success to be recorded with others. The slot knows it, if this process dies."""
        if not self.done:
            self.done_since = time.monotonic()
        self.done[held.fence] = result
        if held.parent_id is not None:
            self.parents.add(held.parent_id)
        parent = held.parent_id.hex if held.parent_id else None
        self._say("done", held.job_id.hex, held.token.hex, held.attempt, parent, result)

    def _end(self, held: Claim, call: Call | None, outcome: Outcome) -> str:
        """Record an outcome by itself; return the word for what it came to."""
        written: list[object] = []
        try:
            self._record(lambda session: written.append(outcome.record(session)))
        except AWAY:
            raise
        except Exception as error:
            if call is None:
                raise
            outcome = call.failure(error)  # of an effect: that is recorded too
            self._record(lambda session: written.append(outcome.record(session)))
        return outcome.word if written[-1] else "lost"

    def _record(self, write: Callable[[Session], None], *, take: bool = False) -> None:
        """Write, and claim the next jobs; while the database is away, try for a lease's time."""
        db.session.remove()  # whatever the function did to it
        until = time.monotonic() + self.settings.lease_seconds
        while True:
            try:
                with transaction() as session:
                    write(session)
                    held = self._claim(session) if take else self.held
            except AWAY:
                # Perhaps it was written, and jobs claimed with it: the slot gives those back.
                self.retires = True
                db.session.remove()
                if time.monotonic() > until:
                    raise
                time.sleep(PAUSE_SECONDS)
            else:
                self.held = held
                return

    def _say(self, *record: object) -> None:
        with suppress(OSError):  # the function has closed what it did not open
            os.write(self.lines, json.dumps(record).encode() + b"\n")


class _Traces(NamedTuple):
    """What a function may leave behind in its process."""

    threads: int
    files: int
    folder: str

    @classmethod
    def now(cls) -> "_Traces":
        if sys.platform != "linux":
            return cls(0, 0, "")
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - it is done for every job
        # Not asked by name: the folder may have been removed.
        folder = os.readlink("/proc/self/cwd")  # noqa: PTH115 - it is done for every job
        return cls(threading.active_count(), files, folder)

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
