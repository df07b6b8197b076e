"""No file ends the process, and none takes more than a minute or a gigabyte.

Each is compressed as a job does it, in a process of its own whose memory is measured. By default
those that take a few seconds; the rest is for `scripts/test tests/fuzz`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.compression.hostile import FILES, LONG

SECONDS_MAX, MEGABYTES_MAX = 60, 1024
REFUSALS = {"DamagedPdf", "NotAPdf", "NeedsMemory", "TooElaborate"}
PROGRAM = """
import json, sys, time
from pathlib import Path
from backend.compression.engine import Level, comparison, compress
from backend.compression.engine.caps import capped_memory
from backend.errors import AppError

def most_held(process):
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")), 0)

begun = time.monotonic()
try:
    with capped_memory():
        done = compress(Path(sys.argv[1]), Path(sys.argv[2]), level=Level.MEDIUM)
    outcome = "changed" if done.changed else "kept"
except AppError as error:
    outcome = type(error).__name__
running = comparison._program
print(json.dumps({
    "outcome": outcome,
    "seconds": round(time.monotonic() - begun, 1),
    "megabytes": most_held("self"),
    "renderer_megabytes": most_held(running[1].pid) if running else 0,
}))
"""


def held(name: str, folder: Path) -> dict[str, object]:
    source, target = folder / "source.pdf", folder / "small.pdf"
    content = FILES[name]()
    source.write_bytes(content)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), str(target)],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX * 1.5,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-1000:]
    said: dict[str, object] = json.loads(ended.stdout)
    assert source.read_bytes() == content
    written = {path.name for path in folder.iterdir()} - {"source.pdf"}
    if said["outcome"] in REFUSALS:
        assert not written
    else:
        assert said["outcome"] in {"changed", "kept"}
        assert written == {"small.pdf"}
        assert target.stat().st_size <= len(content)
    assert said["seconds"] < SECONDS_MAX, said
    assert max(said["megabytes"], said["renderer_megabytes"]) < MEGABYTES_MAX, said  # type: ignore[type-var, operator]
    return said


@pytest.mark.parametrize("name", sorted(set(FILES) - LONG))
def test_a_hostile_file_is_compressed_kept_or_refused(name: str, tmp_path: Path) -> None:
    held(name, tmp_path)
