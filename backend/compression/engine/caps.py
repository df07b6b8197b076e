"""How much memory compressing may take, so that a hostile document ends itself alone."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY_MAX = 2 * 2**30
_STATUS = Path("/proc/self/status")


@contextmanager
def capped_memory(most: int = MEMORY_MAX) -> Iterator[None]:
    """Let this process take no more than so many bytes over what it has (Linux).

    An allocation that would pass the cap fails, as a MemoryError, where else the kernel would end
    the process. The cap is the process's: it holds for its other threads too.
    """
    if not _STATUS.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    cap = _bytes_held() + most
    if soft != resource.RLIM_INFINITY:
        cap = min(cap, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (cap, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def require_memory(size: int) -> None:
    """Raise MemoryError unless so many bytes more can be had; none of them is touched.

    To be asked before a library that does not look whether it got what it asked for.
    """
    bytes(size)


def _bytes_held() -> int:
    """What counts for RLIMIT_DATA: private memory that may be written, touched or not."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
