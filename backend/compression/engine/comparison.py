"""How alike two PDFs look, by a program of its own that renders them.

The program is started once and kept, and started anew after a document that ended it.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.compression.engine.pipes import lines_within

_ROOT, _VIEWER = Path(__file__).parents[3], "backend.compression.viewing.viewer"
# A page that takes longer to render is given up, and the program with it.
_PAGE_SECONDS = 30.0


@dataclass(slots=True, kw_only=True)
class Comparison:
    """How alike the pages of two documents are.

    `ssim` has, by the number of the page from 1, the structural similarity of what PDFium renders
    of it at 100 dots per inch, in shades of gray; `colour` the mean difference of a channel, from 0
    to 255. `text_changed` are the pages that do not have the same characters. Pages that could be
    rendered neither before nor after are in none of them. `problem` is a sentence when the two
    could not be compared.
    """

    pages: int = 0
    ssim: dict[int, float] = field(default_factory=dict)
    colour: dict[int, float] = field(default_factory=dict)
    text_changed: list[int] = field(default_factory=list)
    problem: str | None = None

    @property
    def worst_page(self) -> int | None:
        """The number of the page that is least alike."""
        return min(self.ssim, key=lambda page: (self.ssim[page], page), default=None)

    @property
    def worst(self) -> float | None:
        """The lowest similarity."""
        return min(self.ssim.values(), default=None)

    @property
    def mean(self) -> float | None:
        """The mean similarity of the pages that were compared."""
        return sum(self.ssim.values()) / len(self.ssim) if self.ssim else None


def compare(
    before: Path,
    after: Path,
    password: str | None,
    *,
    seconds: float,
    progress: Callable[[float], None],
) -> Comparison:
    """Render two documents and compare their pages, for about so many seconds at most.

    Pages of a long document are taken in an order that is spread over it. What `progress` raises
    comes out of here.
    """
    found = Comparison()
    question = {
        "before": str(before.resolve()),
        "after": str(after.resolve()),
        "password": password,
        "seconds": seconds,
    }
    with _lock:
        try:
            for answer in _asked(question):
                if "problem" in answer:
                    found.problem = answer["problem"]
                elif "pages" in answer:
                    _count(found, *answer["pages"])
                else:
                    _note(found, **answer)
                    progress(min(1.0, len(found.ssim) / max(1, found.pages)))
        except _Ended as ended:
            found.problem = str(ended)
        except BaseException:
            stop_renderer()  # it is in the middle of an answer
            raise
    return found


def _count(found: Comparison, before: int, after: int) -> None:
    found.pages = before
    if before != after:
        found.problem = f"of {before} pages {after} are left"


def _note(
    found: Comparison, *, page: int, ssim: float | None, colour: float | None, text: bool
) -> None:
    if ssim is not None and colour is not None:
        found.ssim[page], found.colour[page] = ssim, colour
    if not text:
        found.text_changed.append(page)


class _Ended(Exception):
    """The program ended, or gave no answer."""


_lock = threading.Lock()
_program: tuple[int, subprocess.Popen[bytes]] | None = None


def _asked(question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    process = _started()
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None  # noqa: S101, PT018 - they are pipes
    try:
        stdin.write(json.dumps(question).encode() + b"\n")
        stdin.flush()
    except OSError as error:
        stop_renderer()
        raise _Ended("the renderer ended") from error
    for line in lines_within(stdout, _PAGE_SECONDS):
        answer = json.loads(line)
        yield answer
        if "pages" in answer or "problem" in answer:
            return
    stop_renderer()
    raise _Ended("the renderer ended, or took too long for a page")


def _started() -> subprocess.Popen[bytes]:
    global _program  # noqa: PLW0603 - one for each process, since it takes long to start
    if _program is None or _program[0] != os.getpid() or _program[1].poll() is not None:
        command = [sys.executable, "-m", _VIEWER]
        process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _program = os.getpid(), process
    return _program[1]


def stop_renderer() -> None:
    """End the program that renders; the next comparison starts it anew."""
    global _program
    if _program is None or _program[0] != os.getpid():
        return
    process, _program = _program[1], None
    process.kill()
    with suppress(OSError):
        process.communicate()


atexit.register(stop_renderer)
