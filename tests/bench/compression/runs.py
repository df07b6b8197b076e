"""Running tools, one process after another, and what each cost.

CPU is of a process and of all below it that it waited for. The peak of memory is of the largest
of them, and no less than this bench's own (about 20 MB), from which they are started.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

OK, REFUSED, KILLED, TIMEOUT = "ok", "refused", "killed", "timeout"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a tool made of one file: the size of its output, 0 for none, and the status."""

    in_bytes: int
    out_bytes: int
    status: str
    wall: float
    error: str = ""


@dataclass
class Series:
    """A tool's runs over all files: by file's name, seconds in all, and the peak of memory."""

    title: str
    runs: dict[str, Run] = field(default_factory=dict)
    wall: float = 0.0
    cpu: float = 0.0
    rss_mb: float = 0.0

    def add(self, process: "_Process") -> None:
        """Add what a process that has ended cost."""
        self.wall += process.wall
        self.cpu += process.cpu
        self.rss_mb = max(self.rss_mb, process.rss_mb)


class _Process:
    """A program in a session and a folder of its own, which may not take too long."""

    def __init__(self, command: Sequence[str], folder: Path, seconds: float, **more: Any) -> None:
        self.seconds, self.is_late = seconds, False
        self.errors = folder / "stderr"
        self.wall = self.cpu = self.rss_mb = 0.0
        self._began = time.perf_counter()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
                **more,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:  # the bench was interrupted
            self.kill()
            self.process.wait()

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Kill the program when it takes longer."""
        timer = threading.Timer(self.seconds, self.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def kill(self) -> None:
        """Kill the program and all of its session."""
        self.is_late = True
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Wait for the end, and note what it cost."""
        with self.limited():
            _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self.wall = time.perf_counter() - self._began
        self.cpu = usage.ru_utime + usage.ru_stime
        self.rss_mb = usage.ru_maxrss / 1024

    def judged(self, source: Path, target: Path, wall: float) -> Run:
        """The run of a file after whose end, or in the middle of which, the program has ended."""
        size = target.stat().st_size if target.exists() else 0
        if self.is_late:
            status = TIMEOUT
        elif self.process.returncode < 0:
            status = KILLED
        else:
            status = OK if self.process.returncode == 0 and size else REFUSED
        said = "" if status == OK else self.errors.read_text(errors="replace")[-300:].strip()
        return Run(
            in_bytes=source.stat().st_size, out_bytes=size, status=status, wall=wall, error=said
        )


def run(command: Sequence[str], source: Path, target: Path, series: Series, limit: float) -> Run:
    """Run a tool for one file, which may take so many seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder,
        _Process(command, Path(folder), limit, stdout=subprocess.DEVNULL) as process,
    ):
        process.wait()
        series.add(process)
        return process.judged(source, target, process.wall)


def run_warm(
    command: Sequence[str], files: Mapping[Path, Path], series: Series, limit: float
) -> None:
    """Run `ours.py` for all files, anew only where a file has ended it."""
    left = list(files.items())
    while left:
        paths = [str(path) for pair in left for path in pair]
        with (
            tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder,
            _Process([*command, *paths], Path(folder), limit, stdout=subprocess.PIPE) as process,
        ):
            assert process.process.stdout is not None
            done = 0
            for source, target in left:
                with process.limited():
                    line = process.process.stdout.readline()
                if not line:
                    break
                series.runs[source.name] = _answered(json.loads(line), source, target)
                done += 1
            process.wait()
            process.process.stdout.close()
            series.add(process)
            if done < len(left):
                source, target = left[done]
                series.runs[source.name] = process.judged(source, target, 0.0)
        left = left[done + 1 :]


def _answered(answer: dict[str, Any], source: Path, target: Path) -> Run:
    refused = answer["error"] is not None
    return Run(
        in_bytes=source.stat().st_size,
        out_bytes=0 if refused else target.stat().st_size,
        status=REFUSED if refused else OK,
        wall=answer["wall"],
        error=answer["error"] or "",
    )
