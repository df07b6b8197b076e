"""Hearing what a program of our own says, for as long as there is time."""

import os
import selectors
import time
from collections.abc import Iterator
from typing import IO


def lines_within(pipe: IO[bytes], seconds: float, *, in_all: bool = False) -> Iterator[bytes]:
    """Yield the lines of a pipe until it ends, or nothing came for so many seconds.

    With `in_all` they are for all lines together. The pipe must not have been read otherwise.
    """
    rest, deadline = b"", time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(pipe.fileno(), 65536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if not in_all:
                deadline = time.monotonic() + seconds
