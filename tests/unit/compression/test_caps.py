"""What memory may be taken, and what happens to who takes more."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from backend.compression.engine import Level, NeedsMemory, compress, compressor
from backend.compression.engine.caps import MEMORY_MAX, capped_memory


def test_an_allocation_past_the_cap_fails_and_the_cap_ends() -> None:
    program = (
        "from backend.compression.engine.caps import capped_memory\n"
        "try:\n"
        "    with capped_memory(2**27):\n"
        "        bytearray(2**26)\n"
        "        bytearray(2**28)\n"
        "except MemoryError:\n"
        "    print(len(bytearray(2**28)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(ended.stdout) == 2**28


def test_a_lower_cap_stays() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lower = 64 * MEMORY_MAX
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (lower, hard))
        with capped_memory(65 * MEMORY_MAX):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == lower
        assert resource.getrlimit(resource.RLIMIT_DATA) == (lower, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_a_want_of_memory_is_said_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def exhaust(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(compressor, "shrink", exhaust)
    source = Path(__file__).parents[2] / "fixtures" / "pdf" / "scan-1bit.pdf"
    with pytest.raises(NeedsMemory, match="more memory"):
        compress(source, tmp_path / "small.pdf", level=Level.MEDIUM)
    assert not list(tmp_path.iterdir())
