"""The operating system's processes: to lead a group, to die with a parent, to kill a tree."""

import ctypes
import hashlib
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

NICENESS = 10  # an attempt yields the processor to those who answer people
MARK = "SLUICE_SLOT"  # a variable: the slot's process, and when that began
_MARKED = re.compile(rb"(?:^|\0)SLUICE_SLOT=(\d+)-(\d+)(?:\0|$)")
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


def identity(pid: int) -> str:
    """What a process is called that no other ever is: its number, when it began, and where."""
    return f"{pid}-{_born(pid)}-{place()}"


def is_alive(process: str) -> bool:
    """Whether the process of an identity, which must be of this place, still runs."""
    pid = int(process.partition("-")[0])
    try:
        os.kill(pid, 0)
    except OSError as error:
        if not isinstance(error, PermissionError):
            return False
    return identity(pid) == process


@cache
def place() -> str:
    """Where processes' numbers mean what they mean here: the machine since its start (Linux).

    A container is a place of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        here = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        here = platform.node()
    return hashlib.blake2s(here.encode(), digest_size=4).hexdigest()


def adopt_orphans() -> None:
    """Become the parent of whatever descendants leave behind (Linux)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def kill_children(seconds: float) -> bool:
    """Kill all that this process has started or adopted; tell whether nothing is left in time."""
    until = time.monotonic() + seconds
    while left := _descendants(os.getpid()):
        if time.monotonic() > until:
            return False
        _kill(left)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)  # what was started since the look is found by the next
    return True


def mark_children(slot: int) -> None:
    """Have every program that this process starts bear the slot's mark, for `kill_orphans`."""
    os.environ[MARK] = f"{slot}-{_born(slot)}"  # noqa: TID251 - it is written, for others


def kill_orphans() -> int:
    """Kill the programs of this user whose slot is dead (Linux); return how many.

    A slot that was killed could not end what its attempts had started, nor could its worker.
    """
    killed = 0
    for process in Path("/proc").glob("[0-9]*"):
        if not _is_orphan(process):
            continue
        pid = int(process.name)
        try:
            # Held before it is looked at again, so that the number cannot become another's.
            held = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended
            continue
        except (AttributeError, OSError):  # a kernel, or a Python, without this
            _kill([pid])
            killed += 1
            continue
        try:
            if _is_orphan(process):
                with suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                    killed += 1
        finally:
            os.close(held)
    return killed


def _is_orphan(process: Path) -> bool:
    try:
        found = _MARKED.search((process / "environ").read_bytes())
        # Numbers of processes mean something in their own namespace alone: not a container's here.
        is_here = found and (process / "ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()
        return bool(found and is_here and _born(int(found[1])) != found[2].decode())
    except OSError:  # it has ended, or is another user's
        return False


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def kill_tree(pid: int) -> None:
    """Kill a process and all that it started, sessions of their own included."""
    _kill([*_descendants(pid), pid])
    kill_group(pid)


def kill_group(group: int) -> None:
    """Kill a process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _born(pid: int) -> str:
    """When a process began, as /proc has it; empty for one that is dead, or where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if stat[0] in "ZX" else stat[19]  # the 22nd field (proc(5))


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
