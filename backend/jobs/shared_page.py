"""One page of memory between an attempt's process and the process that watches over it.

The attempt writes its progress, the watcher writes the wish to stop. A write costs microseconds
and never waits, so a body may report as often as it likes; the watcher looks four times a second
and sees the newest, also while the attempt is deep inside a C library.
"""

import json
import mmap
import struct
import zlib

from backend.jobs.attempts import Progress

SIZE = 4096
HEADER = struct.Struct("<BxxxIII")  # stop wanted, sequence, length, CRC-32 of the payload
LONGEST_STAGE = 60
LONGEST_MESSAGE = 300
LOOKS = 10


class SharedPage:
    """Made before the fork and used on both sides of it."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, SIZE)
        self._sequence = 0

    @property
    def stop_wanted(self) -> bool:
        """Whether the attempt is asked to stop."""
        return self._page[0] != 0

    def ask_to_stop(self) -> None:
        """Ask the attempt to stop at its next check."""
        self._page[0] = 1

    def post(self, progress: Progress) -> None:
        """Replace the progress shown."""
        shown = [
            progress.percent,
            progress.stage[:LONGEST_STAGE],
            progress.message[:LONGEST_MESSAGE],
            progress.items_done,
            progress.items_total,
        ]
        # At most six bytes a character, so this fits; half a surrogate pair becomes a "?".
        payload = json.dumps(shown, ensure_ascii=False).encode(errors="replace")
        self._sequence = (self._sequence + 1) % 2**32
        head = HEADER.pack(0, self._sequence, len(payload), zlib.crc32(payload))
        self._page[HEADER.size : HEADER.size + len(payload)] = payload
        self._page[4 : HEADER.size] = head[4:]

    def read(self) -> Progress | None:
        """Return the progress if it is new since the last call.

        A page caught in the middle of a write fails its checksum and is looked at again.
        """
        for _ in range(LOOKS):
            _, sequence, length, checksum = HEADER.unpack(self._page[: HEADER.size])
            payload = self._page[HEADER.size : HEADER.size + length]
            if sequence == self._sequence:
                return None
            if zlib.crc32(payload) == checksum:
                self._sequence = sequence
                percent, stage, message, done, total = json.loads(payload)
                return Progress(
                    percent=percent,
                    stage=stage,
                    message=message,
                    items_done=done,
                    items_total=total,
                )
        return None

    def close(self) -> None:
        """Give the page back."""
        self._page.close()
