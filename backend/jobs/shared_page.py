"""Memory between an attempt's process and the slot that watches over it.

The attempt writes what it runs and how far it is, the slot writes the wish to stop. A write costs
microseconds and never waits, so a function may report as often as it likes; the slot looks four
times a second and sees the newest, also while the attempt is deep inside a C library.
"""

import fcntl
import json
import mmap
import os
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from backend.jobs.attempts import Progress
from backend.jobs.claims import Claim, Fence

SIZE = 8192
WISH = struct.Struct("<I")  # the number of an attempt
STOP_AT, INTERRUPT_AT, RELIEVED_AT = 0, 4, 8
ATTEMPT_AT, PROGRESS_AT = 64, 4096
HEADER = struct.Struct("<II")  # length, CRC-32 of the payload
LONGEST_STAGE = 60
LONGEST_MESSAGE = 300
LOOKS = 10
# Longer than a transaction of the slot takes, unless the ledger is away: then the other goes on,
# and the fence holds.
LOCK_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An attempt that runs. `number` counts the slot's attempts, `started` is monotonic."""

    number: int
    fence: Fence
    kind: str
    parent_id: UUID | None
    request_id: str
    others: int  # jobs that its process has claimed besides
    started: float


def _memory() -> int:
    """A file that no full disk can fail: a page that it had no room for would be a SIGBUS."""
    if sys.platform == "linux":
        return os.memfd_create("attempt")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedPage:
    """Made before the fork and used on both sides of it."""

    def __init__(self) -> None:
        self._file = _memory()  # locked by both sides
        os.ftruncate(self._file, SIZE)
        self._page = mmap.mmap(self._file, SIZE)
        self._number = 0
        self._progress: list[Any] = []

    # ------------------------------------------------------------ the attempt's side

    def begin(self, held: Claim, others: int = 0) -> None:
        """Show that an attempt runs, and how many jobs are claimed besides."""
        self._number = self.count + 1
        fence = [held.job_id.hex, held.token.hex, held.attempt]
        parent = held.parent_id.hex if held.parent_id else None
        about = [held.kind, parent, held.request_id, others, time.monotonic()]
        self._write(ATTEMPT_AT, [self._number, True, *fence, *about])

    def rest(self) -> bool:
        """Show that no attempt runs; tell whether the slot has relieved its process of others."""
        with self._locked():
            self._write(ATTEMPT_AT, [self.count, False])
            return self._number_at(RELIEVED_AT) == self.count

    @property
    def stop_wanted(self) -> bool:
        """Whether the attempt is asked to stop."""
        return self._number_at(STOP_AT) == self._number

    @property
    def interrupt_wanted(self) -> bool:
        """Whether the attempt has run for longer than it may."""
        return self._number_at(INTERRUPT_AT) == self._number

    def post(self, progress: Progress) -> None:
        """Replace the progress shown."""
        shown = [
            self._number,
            time.monotonic_ns(),
            progress.percent,
            progress.stage[:LONGEST_STAGE],
            progress.message[:LONGEST_MESSAGE],
            progress.items_done,
            progress.items_total,
        ]
        self._write(PROGRESS_AT, shown)

    # ------------------------------------------------------------ the slot's side

    @property
    def count(self) -> int:
        """How many attempts have begun."""
        began = self._read(ATTEMPT_AT)
        return began[0] if began else 0

    def current(self) -> Begun | None:
        """Return the attempt that runs."""
        began = self._read(ATTEMPT_AT)
        if not (began and began[1]):
            return None
        number, _, job_id, token, attempt, kind, parent, request_id, others, started = began
        return Begun(
            number=number,
            fence=Fence(job_id=UUID(hex=job_id), token=UUID(hex=token), attempt=attempt),
            kind=kind,
            parent_id=UUID(hex=parent) if parent else None,
            request_id=request_id,
            others=others,
            started=started,
        )

    def read(self, number: int) -> Progress | None:
        """Return an attempt's progress if it is new since the last call."""
        shown = self._read(PROGRESS_AT)
        if not shown or shown[0] != number or shown == self._progress:
            return None
        self._progress = shown
        _, _, percent, stage, message, done, total = shown
        return Progress(
            percent=percent, stage=stage, message=message, items_done=done, items_total=total
        )

    def ask_to_stop(self, number: int) -> None:
        """Ask an attempt to stop at its next check."""
        self._put(STOP_AT, number)

    def interrupt(self, number: int) -> None:
        """Say which attempt a SIGUSR1 is meant for."""
        self._put(INTERRUPT_AT, number)

    @contextmanager
    def relieving(self, number: int) -> Iterator[bool]:
        """Take over the other jobs that the process holds; False if the attempt is over.

        The process cannot go on to them before the block is left, and has to forget them then,
        unless the block raised.
        """
        with self._locked():
            current = self.current()
            runs = current is not None and current.number == number
            yield runs
            if runs:
                self._put(RELIEVED_AT, number)

    @contextmanager
    def holding(self, number: int | None) -> Iterator[bool]:
        """Keep the process at an attempt, or between two (None), for the length of the block.

        False if it is elsewhere.
        """
        with self._locked():
            current = self.current()
            yield (current.number if current else None) == number

    def close(self) -> None:
        """Give the page back."""
        self._page.close()
        os.close(self._file)

    # ------------------------------------------------------------ records

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The kernel lets go of the lock of a process that dies; one that is stopped keeps it.
        until = time.monotonic() + LOCK_SECONDS
        with suppress(OSError):  # the function has closed what it did not open
            while time.monotonic() < until:
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.001)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _number_at(self, at: int) -> int:
        number: int = WISH.unpack(self._page[at : at + WISH.size])[0]
        return number

    def _put(self, at: int, number: int) -> None:
        self._page[at : at + WISH.size] = WISH.pack(number)

    def _write(self, at: int, record: list[Any]) -> None:
        # At most six bytes a character, so this fits; half a surrogate pair becomes a "?".
        payload = json.dumps(record, ensure_ascii=False).encode(errors="replace")
        start = at + HEADER.size
        self._page[start : start + len(payload)] = payload
        self._page[at:start] = HEADER.pack(len(payload), zlib.crc32(payload))

    def _read(self, at: int) -> list[Any]:
        """The record; empty when there is none.

        One caught in the middle of a write fails its checksum and is looked at again.
        """
        start = at + HEADER.size
        for _ in range(LOOKS):
            length, checksum = HEADER.unpack(self._page[at:start])
            payload = self._page[start : start + length]
            if length and zlib.crc32(payload) == checksum:
                record: list[Any] = json.loads(payload)
                return record
        return []
