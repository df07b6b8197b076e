"""What an attempts' process says down its pipe: what attempts log, and how they ended."""

import fcntl
import json
import os
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from backend.db import db, transaction
from backend.jobs import actions, attempts, metrics
from backend.jobs.attempts import Line
from backend.jobs.claims import Fence

log = structlog.get_logger(__name__)

MOST_LINES = 2000  # of an attempt's log are kept
PIPE_BYTES = 1024 * 1024  # of log lines that wait; a full pipe makes the attempt wait


@dataclass(slots=True)
class Listener:
    """The slot's end of the pipe, and what was heard and is not in the ledger yet."""

    pipe: int = -1
    pending: bytes = b""
    lines: dict[Fence, list[Line]] = field(default_factory=lambda: defaultdict(list))
    speaker: Fence | None = None
    lines_kept: int = 0
    # Successes of which the process has not said yet that they are recorded, with their batches.
    unrecorded: dict[Fence, dict[str, Any]] = field(default_factory=dict)
    parents: set[UUID] = field(default_factory=set)

    def open(self) -> int:
        """Make a pipe; return the process's end of it."""
        self.pipe, theirs = os.pipe()
        os.set_blocking(self.pipe, False)
        if sys.platform == "linux":
            with suppress(PermissionError):  # the user's pipes have their limit
                fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return theirs

    def close(self) -> None:
        """Close the slot's end. A line that was being written is lost with its writer."""
        os.close(self.pipe)
        self.pending = b""

    def read(self) -> None:
        """Take what lies in the pipe: lines that attempts logged, and how they ended."""
        with suppress(BlockingIOError):
            while chunk := os.read(self.pipe, PIPE_BYTES):
                self.pending += chunk
        *whole, self.pending = self.pending.split(b"\n")
        for raw in whole:
            with suppress(ValueError):  # its writing was interrupted
                match json.loads(raw):
                    case ["ended", kind, outcome, seconds]:
                        metrics.count_attempt(kind, outcome, seconds)
                    case ["done", job_id, token, attempt, parent, result]:
                        fence = Fence(job_id=UUID(job_id), token=UUID(token), attempt=attempt)
                        self.unrecorded[fence] = result
                        self.parents |= {UUID(parent)} if parent else set()
                    case ["recorded", tokens]:
                        gone = {UUID(token) for token in tokens}
                        for fence in [each for each in self.unrecorded if each.token in gone]:
                            del self.unrecorded[fence]
                        self.parents.clear()
                    case ["line", job_id, token, attempt, at, level, message]:
                        fence = Fence(job_id=UUID(job_id), token=UUID(token), attempt=attempt)
                        line = Line(at=datetime.fromisoformat(at), level=level, message=message)
                        self._keep(fence, line)

    def _keep(self, fence: Fence, line: Line) -> None:
        if fence != self.speaker:
            self.speaker, self.lines_kept = fence, 0
        self.lines_kept += 1
        if self.lines_kept <= MOST_LINES:
            self.lines[fence].append(line)
        elif self.lines_kept == MOST_LINES + 1:
            self.lines[fence].append(_further(line))

    def store(self) -> None:
        """Write what was logged; while the ledger cannot be reached, it waits."""
        for fence in list(self.lines):
            try:
                in_ledger(attempts.log_lines, fence, self.lines[fence])
            except IntegrityError:
                log.info("log_of_a_deleted_job", job_id=str(fence.job_id))
            except SQLAlchemyError:
                db.session.rollback()
                return
            del self.lines[fence]

    def forget_recorded(self) -> None:
        """All that was heard to have succeeded is in the ledger now; tell their batches."""
        self.unrecorded.clear()
        while self.parents:
            actions.tell_parent(self.parents.pop())


def _further(last: Line) -> Line:
    return Line(at=last.at, level="warning", message="What it logs from here on is not kept.")


def in_ledger(call: Any, fence: Fence, *args: Any) -> Any:
    """Write of an attempt in a transaction of its own."""
    with transaction() as session:
        return call(session, fence, *args)
