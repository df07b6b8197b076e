"""Run one job: claim it, watch over its attempt, and see to it that the slot serves on.

The attempt runs in a process of its own (see `body`). This one, which never runs a kind's code,
renews the lease, stores progress and log lines, carries a cancel to the attempt, enforces the
limits, and, when the attempt's process is gone without a word, says so in the ledger at once.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import structlog
from flask import current_app
from sqlalchemy import select as sql_select
from sqlalchemy.exc import SQLAlchemyError

from backend.config import Settings
from backend.db import db, transaction
from backend.jobs import actions, attempts, body, metrics, workspace
from backend.jobs.attempts import Claim, Lease, Line
from backend.jobs.kinds import JobKind, Kinds
from backend.jobs.models import Attempt
from backend.jobs.shared_page import SharedPage

log = structlog.get_logger(__name__)

WRITE_PAUSE = 0.25  # seconds: at most four durable writes of progress a second
LOOK_PAUSE = 1.0  # seconds between looks for a cancel
NICENESS = 10  # an attempt yields the processor to those who answer people
MOST_LINES = 2000  # of an attempt's log are kept
# What a slot is ended with: SIGQUIT where REMAP_SIGTERM says so, as the deployment does.
ENDINGS = (signal.SIGTERM, signal.SIGQUIT)
PIPE_BYTES = 65536  # as much as a pipe holds (pipe(7))

Why = Literal["cancelled", "time_limit", "deploy", "lease_lost"]


def run_next(queue: str, worker: str, served: Sequence[str] = ()) -> UUID | None:
    """Claim the queue's next job and run it to its end; None when there is nothing to do.

    `served` are all queues of the slot: a job that is overdue in one of the others goes first.
    """
    others = [each for each in served if each != queue]
    settings: Settings = current_app.config["SLUICE"]
    kinds: Kinds = current_app.extensions["sluice.kinds"]
    with transaction() as session:
        held = attempts.claim(session, queue, worker, settings.lease_seconds, others)
    if held is None:
        return None
    ids = {"job_id": str(held.job_id), "attempt": held.attempt, "worker": worker}
    with structlog.contextvars.bound_contextvars(request_id=held.request_id, **ids):
        kind = kinds.get(held.kind)
        if kind is None:
            _refuse_unknown(held)
        else:
            log.info("attempt_started", kind=held.kind)
            with _termination_noted() as told:
                Watch(held=held, kind=kind, settings=settings, told=told).run()
        _close(held, kind)
    return held.job_id


def _refuse_unknown(held: Claim) -> None:
    sentence = f"No kind of job is called {held.kind!r} in this version of the application."
    with transaction() as session:
        attempts.fail(session, held, sentence, code="unknown_kind")


def _close(held: Claim, kind: JobKind[Any, Any] | None) -> None:
    """After the attempt: count it, and let its batch go on."""
    attempt, seconds = _ended_attempt(held)
    if attempt is not None:
        log.info("attempt_ended", outcome=attempt.outcome, duration_seconds=round(seconds, 3))
        metrics.ATTEMPTS.labels(held.kind, attempt.outcome or "open").inc()
        metrics.ATTEMPT_SECONDS.labels(held.kind).observe(seconds)
    actions.tell_parent(held.parent_id)


def _ended_attempt(held: Claim) -> tuple[Attempt | None, float]:
    found = db.session.scalars(sql_select(Attempt).where(Attempt.token == held.token)).one_or_none()
    db.session.commit()
    if found is None or found.ended_at is None:
        return None, 0.0
    return found, (found.ended_at - found.started_at).total_seconds()


@dataclass(slots=True)
class Told:
    """The signal that told this process to end, if one did, and whom to take along."""

    to_end: int = 0
    attempt_pid: int = 0


@contextmanager
def _termination_noted() -> Iterator[Told]:
    """A deploy ends the attempt at once; the watch then hands the job back."""
    told = Told()

    def note(number: int, _: object) -> None:
        told.to_end = number
        if told.attempt_pid:
            _kill_tree(told.attempt_pid)

    before = {each: signal.signal(each, note) for each in ENDINGS}
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if told.to_end:
        os.kill(os.getpid(), told.to_end)


@dataclass(slots=True)
class Watch:
    """One attempt, from the fork to the moment it is seen to be dead."""

    held: Claim
    kind: JobKind[Any, Any]
    settings: Settings
    told: Told
    page: SharedPage = field(default_factory=SharedPage)
    pid: int = 0
    lines_from: int = -1
    pending: bytes = b""
    lines_kept: int = 0
    why: Why | None = None
    started: float = field(default_factory=time.monotonic)
    renewed: float = field(default_factory=time.monotonic)
    wrote: float = 0.0
    looked: float = field(default_factory=time.monotonic)
    asked: float | None = None
    interrupted: bool = False

    def run(self) -> None:
        """Fork the attempt, watch it, bury it, and record what it could not record itself."""
        self._fork()
        status = None
        try:
            while status is None:
                status = self._wait(WRITE_PAUSE)
                self._tend()
        finally:
            if status is None:  # the watch itself failed: nothing runs unwatched
                _kill_tree(self.pid)
                _, status = os.waitpid(self.pid, 0)
            self._bury()
            self._settle(status)

    def _bury(self) -> None:
        """Leave nothing of an attempt that is dead: no process, no file, no descriptor."""
        self.told.attempt_pid = 0
        _kill_group(self.pid)  # what it started and left behind
        self._read_lines()
        self._store_lines()
        os.close(self.lines_from)
        self.page.close()
        workspace.discard(self.settings, self.held)

    def _fork(self) -> None:
        self.lines_from, lines_to = os.pipe()
        os.set_blocking(self.lines_from, False)
        # Neither SQLite's locks nor PostgreSQL's protocol outlive a fork: go with none open.
        db.session.remove()
        db.engine.dispose()
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.lines_from)
            _become_attempt(parent)
            code = 70
            try:
                code = body.run(self.kind, self.held, self.page, lines_to, self.settings)
            except BaseException:
                log.exception("attempt_crashed")
            finally:
                _last_words()
                os._exit(code)
        os.close(lines_to)
        self.told.attempt_pid = self.pid
        if self.told.to_end:
            _kill_tree(self.pid)

    def _wait(self, seconds: float) -> int | None:
        """Wait for a log line, the end, or the time to pass; the status once it has ended."""
        ready, _, _ = select.select([self.lines_from], [], [], seconds)
        if ready and not self._read_lines():
            time.sleep(0.002)  # its end of the pipe is closed: it is ending, or has closed it
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return status if pid else None

    def _read_lines(self) -> bool:
        """Take what lies in the pipe; False at its end."""
        try:
            chunk = os.read(self.lines_from, PIPE_BYTES)
        except BlockingIOError:
            return True
        if self.lines_kept < MOST_LINES:
            self.pending += chunk
        return bool(chunk)

    def _tend(self) -> None:
        """Do what is due. A ledger that cannot be reached stops none of it but the writing."""
        now = time.monotonic()
        try:
            if now - self.wrote >= WRITE_PAUSE:
                self._write_progress(now)
            if now - self.renewed >= self.settings.heartbeat_seconds:
                self._heed(self._in_ledger(attempts.renew, self.settings.lease_seconds))
                self.renewed = now
            elif now - self.looked >= LOOK_PAUSE:
                self._heed(attempts.wishes(db.session(), self.held))
                db.session.commit()
        except SQLAlchemyError as error:
            db.session.rollback()
            log.warning("ledger_unreachable", error=type(error).__name__)
            self.looked = self.wrote = now
        if now - self.renewed > self.settings.lease_seconds:
            self._kill("lease_lost")
        self._limit(now)

    def _in_ledger(self, call: Any, *args: Any) -> Any:
        with transaction() as session:
            return call(session, self.held, *args)

    def _write_progress(self, now: float) -> None:
        progress = self.page.read()
        if progress is not None:
            self.wrote = now
            self._in_ledger(attempts.report, progress)
            actions.tell_parent(self.held.parent_id)
        if self.pending:
            self.wrote = now
            self._store_lines()

    def _heed(self, lease: Lease | None) -> None:
        self.looked = time.monotonic()
        if lease is None:
            if not self._has_recorded_its_end():
                self._kill("lease_lost")
        elif lease.force:
            self._kill("cancelled")
        elif lease.cancelling and self.asked is None:
            self.asked = self.looked
            self.page.ask_to_stop()

    def _has_recorded_its_end(self) -> bool:
        """Whether the attempt itself let go of the job, and not a steward who thought it dead."""
        outcome = db.session.scalars(
            sql_select(Attempt.outcome).where(Attempt.token == self.held.token)
        ).one_or_none()
        db.session.commit()
        return outcome not in {None, "lost"}

    def _limit(self, now: float) -> None:
        ran = timedelta(seconds=now - self.started)
        if ran > self.kind.hard_limit:
            self._kill("time_limit")
        elif ran > self.kind.soft_limit and not self.interrupted:
            self.interrupted = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)
        if self.asked and now - self.asked > self.settings.cancel_grace_seconds:
            self._kill("cancelled")

    def _kill(self, why: Why) -> None:
        if self.why is None:
            self.why = why
            log.warning("attempt_killed", why=why)
        _kill_tree(self.pid)

    def _store_lines(self) -> None:
        *whole, self.pending = self.pending.split(b"\n")
        lines = [line for raw in whole[: MOST_LINES - self.lines_kept] if (line := _line(raw))]
        if self.lines_kept < MOST_LINES <= self.lines_kept + len(lines):
            lines.append(_further(lines[-1]))
        if lines:
            try:
                self._in_ledger(attempts.log_lines, lines)
            except SQLAlchemyError:  # it is away: they wait for the next time
                self.pending = b"\n".join([*whole, self.pending])
                return
        self.lines_kept += len(lines)

    def _settle(self, status: int) -> None:
        """Write the outcome of an attempt whose process could not."""
        code = os.waitstatus_to_exitcode(status)
        if code in {body.RECORDED, body.LEASE_LOST}:
            return
        with suppress(SQLAlchemyError), transaction() as session:
            if self.told.to_end:
                note = "Handed back by a deploy; it runs again from its last checkpoint."
                attempts.log_end(session, self.held, note)
                attempts.give_back(session, self.held, "handed_back", note=note, charged=False)
            elif self.why == "cancelled":
                attempts.stop(session, self.held, "killed")
            elif self.why == "time_limit":
                minutes = self.kind.hard_limit.total_seconds() / 60
                sentence = f"This took longer than the {minutes:g} minutes that are allowed."
                attempts.log_end(session, self.held, sentence)
                attempts.fail(session, self.held, sentence, code="time_limit", outcome="killed")
            else:
                attempts.lose(session, self.held, _cause(code))


def _line(raw: bytes) -> Line | None:
    """A line as the attempt wrote it; None for one whose writing was interrupted."""
    try:
        at, level, message = json.loads(raw)
        return Line(at=datetime.fromisoformat(at), level=level, message=message)
    except ValueError:
        return None


def _further(last: Line) -> Line:
    return Line(at=last.at, level="warning", message="What it logs from here on is not kept.")


def _cause(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"The worker was lost: its process was ended by {name}"
    return f"The worker was lost: its process ended with exit code {code}"


def _become_attempt(parent: int) -> None:
    """Lead a process group of its own, and never outlive the process that watches."""
    os.setsid()
    os.nice(NICENESS)
    for each in ENDINGS:
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    if os.getppid() != parent:
        os._exit(body.NOT_RECORDED)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux's PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)


def _kill_tree(pid: int) -> None:
    """Kill an attempt and all that it started, sessions of their own included."""
    for each in [*_descendants(pid), pid]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    _kill_group(pid)


def _descendants(pid: int) -> set[int]:
    """A process's children and theirs, as /proc has them; none where there is no /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            # "7 (a name) S 1 …": the fourth field is the parent (proc(5)).
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    newest = {pid}
    while newest:
        newest = {child for child, parent in parents.items() if parent in newest} - found
        found |= newest
    return found


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _last_words() -> None:
    """Let what the attempt rang for go out before its process ends."""
    flush = getattr(current_app.extensions["sluice.doorbell"], "flush", None)
    if flush is not None:
        flush(timeout_seconds=1.0)
    sys.stdout.flush()
    sys.stderr.flush()
