"""Programs in a session each, with their output in files; none of them outlives the bench."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

STOP_SECONDS = 20.0


class Broken(Exception):
    """A program of the bench failed; the message ends with what it said last."""


@dataclass
class Processes:
    """What runs in one folder. Leaving the context ends it, the newest first."""

    folder: Path
    environment: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        (self.folder / "logs").mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*reversed(self.running))

    def start(self, name: str, command: Sequence[str | Path], *, output: Any = None) -> None:
        """Start a program. A session of its own keeps Ctrl-C for the bench, which ends it."""
        with self.log(name).open("ab") as log:
            self.running[name] = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.folder,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=output or log,
                stderr=log,
                start_new_session=True,
            )

    def ask(self, name: str, command: Sequence[str | Path]) -> Any:
        """Run a program to its end; return the JSON that it wrote."""
        self.start(name, command, output=subprocess.PIPE)
        return self.answer(name)

    def finish(self, name: str) -> Any:
        """Tell a program that was started with a pipe to end; return its JSON."""
        self.running[name].terminate()
        return self.answer(name)

    def answer(self, name: str) -> Any:
        """Wait for the end of a program that was started with a pipe; return its JSON."""
        said, _ = self.running[name].communicate()
        if self.running.pop(name).returncode:
            raise Broken(f"{name} failed in {self.folder}:\n{self.last_words(name)}")
        return json.loads(said)

    def wait_for_line(self, name: str, line: str, seconds: float) -> None:
        """Wait until a program has written a line on standard error."""
        until = time.monotonic() + seconds
        while line not in self.log(name).read_text(errors="replace").splitlines():
            self.check()
            if time.monotonic() > until:
                raise Broken(f"{name} did not say {line!r}:\n{self.last_words(name)}")
            time.sleep(0.1)

    def stop(self, *names: str) -> None:
        """End programs: SIGTERM to each one's first process, after a while SIGKILL to all."""
        programs = {name: self.running.pop(name) for name in names}
        for name, program in programs.items():
            if not name.startswith("server"):
                program.terminate()
        for program in programs.values():
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(STOP_SECONDS)
            with suppress(ProcessLookupError):  # what it has left behind, or all of it
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            if program.stdout:
                program.stdout.close()

    def check(self) -> None:
        """Raise Broken if a program has ended by itself."""
        for name, program in self.running.items():
            if program.poll() is not None:
                raise Broken(f"{name} ended with {program.returncode}:\n{self.last_words(name)}")

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self.folder / "logs" / f"{name}.log"

    def last_words(self, name: str) -> str:
        """The end of a program's output."""
        lines = self.log(name).read_text(errors="replace").splitlines()
        return "\n".join(line[:300] for line in lines[-15:])

    def proportional_bytes(self, name: str) -> int:
        """What a program and all below it hold in memory: the sum of PSS (proc(5))."""
        session = self.running[name].pid
        total = 0
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                if os.getsid(int(path.name)) == session:
                    lines = (path / "smaps_rollup").read_text().splitlines()
                    total += sum(int(line.split()[1]) for line in lines if line[:4] == "Pss:")
        return total * 1024
