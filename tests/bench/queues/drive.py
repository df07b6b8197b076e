"""What is done to one system, in a process of its own with that system's packages.

    python -m tests.bench.queues.drive MODULE COMMAND [NUMBER …]

MODULE is one of the `on_…` beside this one. The answer is a line of JSON. The working folder is
the system's: `broker.sock` is its broker there, and `trace.sock` is where its jobs tell the time.
"""

import json
import random
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

GIVE_UP_SECONDS = 900.0
OBSERVER_SECONDS = 0.01
WARM_UPS = 5


class Queue(Protocol):
    """What each `on_…` module offers. Its jobs are `nothing` and `clocked` (see `trace`)."""

    def context(self) -> AbstractContextManager[Any]:
        """What a caller of the system enters once."""

    def prepare(self) -> None:
        """Make tables, if there are any."""

    def submit(self) -> None:
        """Submit a job that does nothing; return once it is as safe as the system makes it."""

    def submit_clocked(self) -> None:
        """Submit a job that tells the time at its first line."""

    def submit_many(self, number: int) -> None:
        """Submit jobs that do nothing in the system's fastest documented way."""

    def left(self, number: int) -> int:
        """How many of so many submitted jobs have not ended."""

    def span(self) -> float | None:
        """Seconds from the first to the last end by the system's own records, if it keeps any."""


def prepare(queue: Queue) -> dict[str, Any]:
    """Make the system's tables."""
    queue.prepare()
    return {}


def many(queue: Queue, number: int) -> dict[str, Any]:
    """Submit many at once, over what is open already; tell how long that took."""
    queue.submit()
    started = time.monotonic()
    queue.submit_many(number)
    return {"seconds": time.monotonic() - started}


def fill(queue: Queue, number: int) -> dict[str, Any]:
    """Submit the jobs of a drain: many at once, or as the module has it."""
    getattr(queue, "submit_for_drain", queue.submit_many)(number)
    return {}


def one_by_one(queue: Queue, number: int) -> dict[str, Any]:
    """Submit one after another, over what is open already; tell how long that took."""
    queue.submit()
    started = time.monotonic()
    for _ in range(number):
        queue.submit()
    return {"seconds": time.monotonic() - started}


def drain(queue: Queue, number: int) -> dict[str, Any]:
    """Look on while workers drain so many jobs; tell the jobs per second.

    By the system's own records of when each job ended: all but the first, over the time from
    the first end to the last. A system without such records is watched a hundred times a
    second: what was left at the first look that found some done, over the time to none left.
    """
    keeps_records = queue.span() is not None
    began = time.monotonic()
    first: tuple[float, int] | None = None
    while True:
        left, now = queue.left(number), time.monotonic()
        if left == 0:
            break
        if left < number and first is None:
            first = now, left
        if now - began > GIVE_UP_SECONDS:
            raise TimeoutError(f"after {GIVE_UP_SECONDS:g} s, {left} of {number} jobs are left")
        time.sleep(0.2 if keeps_records else OBSERVER_SECONDS)
    if keeps_records:
        return {"per_second": (number - 1) / cast(float, queue.span())}
    if first is None:
        raise ValueError(f"{number} jobs ended between two looks; give more --jobs")
    return {"per_second": first[1] / (now - first[0])}


def pick_up(
    queue: Queue, number: int, pause_ms: int, *, submit: str = "submit_clocked"
) -> dict[str, Any]:
    """Submit one job at a time to an idle system; tell the milliseconds until each began.

    From the return of the submit to the first line of the job's function, both by this
    machine's monotonic clock. The pause in between is drawn from half to one and a half times
    `pause_ms`, so that it is never in step with a system that polls.
    """
    pauses = random.Random(1)  # noqa: S311 - guards nothing
    waits = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trace:
        trace.bind("trace.sock")
        try:
            trace.settimeout(60)
            for turn in range(WARM_UPS + number):
                getattr(queue, submit)()
                submitted = time.monotonic_ns()
                began = int(trace.recv(64))
                if turn >= WARM_UPS:
                    waits.append((began - submitted) / 1e6)
                time.sleep(pause_ms / 1000 * pauses.uniform(0.5, 1.5))
        finally:
            Path("trace.sock").unlink()
    return {"ms": waits}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "fill": fill,
    "many": many,
    "one-by-one": one_by_one,
    "drain": drain,
    "pick-up": pick_up,
    "pick-up-high": partial(pick_up, submit="submit_clocked_high"),
}


def main(module: str, command: str, *numbers: str) -> None:
    """Do one command to a system."""
    queue = cast(Queue, import_module(f"tests.bench.queues.{module}"))
    with queue.context():
        answer = COMMANDS[command](queue, *map(int, numbers))
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
