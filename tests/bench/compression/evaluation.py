"""Looking at outputs, by programs of the rivals' environment."""

import hashlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

VIEWER = Path(__file__).with_name("viewer.py")
DPI = 100
PAGES = 10
SECONDS = 120.0  # for one output
VIEWERS = 2
Seen = dict[str, Any]
_UNSEEN: Seen = {"opens": False, "pages": 0, "error": "the viewer ended", "losses": []}


@dataclass
class Viewer:
    """The program `viewer.py`, which judges one output at a time; started anew when it ends."""

    python: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def see(self, source: Path, output: Path | None = None, *, dpi: float = DPI) -> Seen:
        """How an output differs from its source, or without one what the source is."""
        if self._process is None:
            command = [str(self.python), str(VIEWER)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        question = {
            "source": str(source),
            "output": str(output) if output else None,
            "dpi": dpi,
            "pages": PAGES,
        }
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if not line:
            self.close()
            return _UNSEEN
        answer: Seen = json.loads(line)
        return answer

    def see_all(self, source: Path, outputs: Mapping[str, Path]) -> dict[str, Seen]:
        """The same of many outputs, those that are alike once; under "" what the source is."""
        found, known = {"": self.see(source)}, {}
        for name, output in outputs.items():
            digest = hashlib.sha256(output.read_bytes()).digest()
            if digest not in known:
                known[digest] = self.see(source, output)
            found[name] = known[digest]
        return found

    def close(self) -> None:
        """End the program."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.communicate()


class Viewers:
    """As many viewers as this machine has room for, each of which is used by one at a time."""

    def __init__(self, python: Path) -> None:
        # Whatever it misses is said now, and does not look like documents that end it.
        subprocess.run([python, VIEWER], stdin=subprocess.DEVNULL, check=True)
        self._idle: SimpleQueue[Viewer] = SimpleQueue()
        for _ in range(VIEWERS):
            self._idle.put(Viewer(python))

    def map(self, function: Any, questions: Sequence[Any]) -> list[Any]:
        """Call `function(viewer, question)` for each, some at the same time; return the answers."""

        def ask(question: Any) -> Any:
            viewer = self._idle.get()
            try:
                return function(viewer, question)
            finally:
                self._idle.put(viewer)

        with ThreadPoolExecutor(VIEWERS) as threads:
            return list(threads.map(ask, questions))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _viewer in range(VIEWERS):
            self._idle.get().close()
