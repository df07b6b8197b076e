"""The operating system's processes: to lead a group, to die with a parent, to kill a tree."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

NICENESS = 10  # an attempt yields the processor to those who answer people
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def lead_a_group(parent: int, endings: Iterable[signal.Signals]) -> None:
    """Lead a process group of one's own, and never outlive the process that watches.

    What its descendants leave behind becomes its own (Linux), so that it can be seen.
    """
    os.setsid()
    os.nice(NICENESS)
    for each in endings:
        signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    adopt_orphans()
    if os.getppid() != parent:
        os._exit(1)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux)."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of whatever descendants leave behind (Linux)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_children() -> None:
    """Kill all that this process has started or adopted, and wait for their ends."""
    for each in _descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def kill_tree(pid: int) -> None:
    """Kill a process and all that it started, sessions of their own included."""
    for each in [*_descendants(pid), pid]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    kill_group(pid)


def kill_group(group: int) -> None:
    """Kill a process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


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
