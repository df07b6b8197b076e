"""The processes of a data folder: found by their environment, ended by their ids."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sluice_stack import StackError

MARK = "SLUICE_STACK"  # the variable that every process of a stack carries: its data folder
LAST_SECONDS = 5.0  # for what SIGKILL was sent to


def running(data: Path) -> dict[int, int]:
    """The processes of a data folder: the id of each, with its parent's."""
    if not Path("/proc/self/environ").exists():
        raise StackError("There is no /proc here; Linux is needed, or WSL.")
    mark = os.fsencode(f"{MARK}={data}")
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):  # it is another user's, or has ended
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                # proc(5): pid (name) state ppid …, and a name may hold spaces and brackets
                status = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                found[int(entry.name)] = int(status[1])
    return found


def end(data: Path, grace_seconds: float, nudge: Callable[[], object] = lambda: None) -> int:
    """End all processes of a data folder and return how many there were.

    The topmost are asked with SIGTERM and see to the rest; who is left after the grace is killed.
    `nudge` is called meanwhile: supervisord notices a signal or an ended program once a second,
    and at once when somebody speaks to it.
    """
    met = set(before := running(data))
    _signal(signal.SIGTERM, [pid for pid, parent in before.items() if parent not in before])
    until = time.monotonic() + grace_seconds
    while (left := running(data)) and time.monotonic() < until:
        met |= left.keys()
        nudge()
        time.sleep(0.05)
    return len(met | kill(data))


def kill(data: Path) -> set[int]:
    """Kill the processes of a data folder, those that are being started too."""
    met: set[int] = set()
    until = time.monotonic() + LAST_SECONDS
    while left := running(data):
        if time.monotonic() > until:
            raise StackError(f"These processes cannot be ended: {sorted(left)}.")
        met |= left.keys()
        _signal(signal.SIGKILL, list(left))
        time.sleep(0.05)
    return met


def _signal(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
