"""Telling how small a document will get, from a sample of it.

The document is written anew as it is, which tells what its structure takes, and then what takes the
bytes is looked at: some images, some contents and the fonts, recoded as each level would; the rest
is taken to be like it. It runs as a program (`python -m` and this
module's name), because the estimate has to be there in time whatever the document is. A line of
JSON asks, `{"source": path, "password": text or null, "seconds": most}`, and each line that
answers is an `Estimate`, better than the one before.
"""

import io
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from pikepdf import Name, ObjectStreamMode, Page, Pdf, Stream

from backend.compression.engine import fonts, images, profiles
from backend.compression.engine.content import rounded
from backend.compression.engine.document import (
    is_signed,
    objects_of,
    open_pdf,
    pdfa_claim,
    problems_of,
)
from backend.compression.engine.duplicates import merge_duplicates
from backend.compression.engine.encoders import pack
from backend.compression.engine.errors import (
    UNDECODABLE,
    DamagedPdf,
    NeedsPassword,
    NotAPdf,
    WrongPassword,
)
from backend.compression.engine.levels import DEFAULT_QUALITY, Level, steps_from
from backend.compression.engine.pipes import lines_within
from backend.compression.engine.sizes import Sizes, kinds_of, sizes_of
from backend.compression.engine.strip import strip
from backend.compression.engine.survey import ObjectId, Survey, survey
from backend.errors import AppError

_MEMORY_MAX = 2**30
_OPERATIONS_MAX = 200_000
# Larger images are not looked at: what packing exactly takes long for, and what anything does.
_EXACT_SAMPLES_MAX, _SAMPLES_MAX = 1_000_000, 16_000_000
# For images that are not looked at: bytes a sample of photos and scans at each level, and what is
# left of an image's bytes when it is packed exactly.
_PHOTO = {Level.LOW: 0.45, Level.MEDIUM: 0.12, Level.HIGH: 0.09}
_EXACT, _BILEVEL = 0.9, 0.7
_STRUCTURE = 0.7  # of that of a document that is not written anew
_CONTENT_MAX = 200_000  # bytes of a content that are looked at
_REWRITTEN_MAX, _OBJECTS_MAX = 10 * 2**20, 20_000  # more takes too long to be written anew
_NOT_IN_TIME = "It is too large to be looked at in time; to compress it tells how small it gets."
_ROOT = Path(__file__).parents[3]
_ERRORS = {error.code: error for error in (DamagedPdf, NeedsPassword, NotAPdf, WrongPassword)}
_NEARLY_ALL, _WORTH_NAMING = 0.9, 0.1

_WHY = {
    "images": "Images take {share}: they are packed about as well as they can be already, or so"
    " small that nothing can be left out unseen.",
    "fonts": "Fonts take {share}, and their glyphs are shown, or may be when a form is filled in.",
    "content": "Texts and drawings take {share}, and are packed already.",
    "attachments": "Attached files take {share}: they stay as they are unless asked otherwise.",
    "structure": "Structure takes {share}: form fields, tags, colour profiles and what holds the"
    " pages together.",
}


@dataclass(slots=True, kw_only=True)
class Estimate:
    """How small a document will get.

    `expected` are bytes by level, never more than `original_bytes`. `sampled` is the share of the
    document's bytes that was looked at, from 0 to 1. `reasons` say why it gets hardly smaller, when
    that is so. `problems` are what is broken in it, in qpdf's words.
    """

    original_bytes: int
    pages: int = 0
    signed: bool = False
    encrypted: bool = False
    sizes: Sizes | None = None
    expected: dict[Level, int] = field(default_factory=dict)
    sampled: float = 0.0
    reasons: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def estimates(source: Path, password: str | None, seconds: float) -> Iterator[Estimate]:
    """Yield estimates, each better than the one before, for about so many seconds.

    Raises NotAPdf, NeedsPassword, WrongPassword or DamagedPdf.
    """
    deadline = time.monotonic() + seconds
    size = source.stat().st_size
    with open_pdf(source, password) as pdf:
        found = Estimate(
            original_bytes=size,
            pages=len(pdf.pages),
            signed=is_signed(pdf),
            encrypted=pdf.is_encrypted,
            problems=problems_of(pdf, source),
        )
        yield found
        found.sizes = sizes_of(pdf, size)
        with _rewritten(pdf, size) as (plain, plain_size):
            surveyed = survey(_visited(plain, time.monotonic() + seconds / 4), _OPERATIONS_MAX)
            sample = _Sample(plain, plain_size, surveyed)
            if plain is pdf:
                sample.parts["structure"] = int(sample.parts["structure"] * _STRUCTURE)
            for _ in sample.looks():
                _conclude(found, sample)
                yield found
                if time.monotonic() > deadline:
                    return


@contextmanager
def _rewritten(pdf: Pdf, size: int) -> Iterator[tuple[Pdf, int]]:
    """The document without what is stored twice or not needed, its streams as they were."""
    if size > _REWRITTEN_MAX or len(pdf.objects) > _OBJECTS_MAX:
        yield pdf, size
        return
    things = objects_of(pdf)
    strip(things)
    if pdfa_claim(pdf) is None:
        for stream, data in profiles.slimmer(things):
            stream.write(pack(data), filter=Name.FlateDecode)
    merge_duplicates(pdf)
    file = io.BytesIO()
    pdf.save(file, object_stream_mode=ObjectStreamMode.generate, encryption=False)
    with Pdf.open(file) as plain:
        yield plain, len(file.getvalue())


def _visited(pdf: Pdf, until: float) -> Iterator[Page]:
    """Yield pages in an order that is spread over the document, for as long as there is time."""
    count = len(pdf.pages)
    step = max(1, count // 16)
    for start in range(step):
        for index in range(start, count, step):
            if time.monotonic() > until:
                return
            yield pdf.pages[index]


class _Sample:
    """The streams of a document, and what each level makes of them: by guess, or by looking."""

    def __init__(self, pdf: Pdf, size: int, found: Survey) -> None:
        self.parts: dict[str, int] = asdict(sizes_of(pdf, size))
        self.looked_at = 0
        self._found = found
        self._steps = {step.level: step for step in steps_from(Level.HIGH, DEFAULT_QUALITY)}
        self._streams: dict[str, list[Stream]] = {kind: [] for kind in self.parts}
        kind_of = kinds_of(pdf)
        for stream in objects_of(pdf):
            if isinstance(stream, Stream) and (kind := kind_of(stream)) is not None:
                self._streams[kind].append(stream)
        self._images = {
            level: sum(self._guessed(image, level) for image in self._streams["images"])
            for level in Level
        }
        self._seen = dict.fromkeys(self.parts, 0)
        self._made = {kind: dict.fromkeys(Level, 0) for kind in self.parts}
        self._emptied: dict[ObjectId, bytes] = {}
        if found.shown:
            found.complete = True  # what was not visited is taken to show the same glyphs
            self._emptied = {stream.objgen: data for stream, data in fonts.empty_unused(pdf, found)}

    def looks(self) -> Iterator[None]:
        """Look at one stream after the other, the largest of each kind first."""
        yield
        queues = {
            kind: sorted(streams, key=lambda stream: -_stored(stream))
            for kind, streams in self._streams.items()
            if kind != "attachments"
        }
        while any(queues.values()):
            for kind, queue in queues.items():
                if queue:
                    with suppress(*UNDECODABLE):
                        self._look(kind, queue.pop(0))
                    yield

    def expected(self, level: Level) -> int:
        """The bytes of the whole document at a level."""
        others = sum(
            size * self._made[kind][level] / self._seen[kind] if self._seen[kind] else size
            for kind, size in self.parts.items()
            if kind != "images"
        )
        return int(self._images[level] + others)

    def _look(self, kind: str, stream: Stream) -> None:
        stored = _stored(stream)
        self.looked_at += stored
        if kind == "images":
            for level, size in self._recoded(stream, stored).items():
                self._images[level] += min(stored, size) - self._guessed(stream, level)
            return
        data = self._emptied.get(stream.objgen) or stream.read_bytes()
        part = data[:_CONTENT_MAX] if kind == "content" else data
        exact = lossy = len(pack(part))
        if kind == "content":
            lossy = len(pack(rounded(part)))
        stored = stored * len(part) // max(1, len(data))
        self._seen[kind] += stored
        for level in Level:
            self._made[kind][level] += min(stored, exact if level is Level.LOSSLESS else lossy)

    def _recoded(self, image: Stream, stored: int) -> dict[Level, int]:
        placement = self._found.placements.get(image.objgen)
        aims = {level: step.aim for level, step in self._steps.items()}
        if images.is_bilevel(image):  # exact at every level
            aims = {Level.LOSSLESS: None}
        after = {}
        for level, aim in aims.items():
            most = _EXACT_SAMPLES_MAX if aim is None and len(aims) > 1 else _SAMPLES_MAX
            if images.samples_in(image) > most:
                after[level] = int(self._guessed(image, level))
            else:
                better = images.recode(image, aim, placement, soft_mask=False)
                after[level] = better.bytes if better is not None else stored
        return after if len(aims) > 1 else dict.fromkeys(Level, after[Level.LOSSLESS])

    def _guessed(self, image: Stream, level: Level) -> float:
        stored, aim = _stored(image), self._steps[level].aim
        if images.is_bilevel(image):
            return stored * _BILEVEL
        if aim is None:
            return stored * _EXACT
        size = image.get_int(Name.Width, 1) or 1, image.get_int(Name.Height, 1) or 1
        width, height = images.fitted(size, self._found.placements.get(image.objgen), aim.dpi)
        return min(stored * _EXACT, width * height * _PHOTO[level])


def _stored(stream: Stream) -> int:
    return len(stream.get_raw_stream_buffer())


def _conclude(found: Estimate, sample: _Sample) -> None:
    whole = max(1, sum(sample.parts.values()))
    found.sampled = min(1.0, sample.looked_at / whole)
    for level in Level:
        found.expected[level] = min(found.original_bytes, sample.expected(level))
    # A stronger level never gives a larger file.
    for gentler, stronger in zip(list(Level)[:-1], list(Level)[1:], strict=True):
        found.expected[stronger] = min(found.expected[stronger], found.expected[gentler])
    if found.signed:
        found.reasons = ["It is signed: it stays as it is, unless the signature is given up."]
    elif found.expected[Level.HIGH] >= _NEARLY_ALL * found.original_bytes:
        found.reasons = [
            _WHY[kind].format(share=f"{size / whole:.0%} of its bytes")
            for kind, size in sorted(sample.parts.items(), key=lambda part: -part[1])
            if size >= _WORTH_NAMING * whole
        ]
    else:
        found.reasons = []


def estimate(source: Path, password: str | None = None, *, seconds: float = 1.8) -> Estimate:
    """How small a document will get, in about so many seconds, by a program of its own.

    What was not reached in time is missing: `expected` is empty then. Raises NotAPdf,
    NeedsPassword, WrongPassword or DamagedPdf.
    """
    question = {"source": str(source.resolve()), "password": password, "seconds": seconds * 0.6}
    found = Estimate(original_bytes=source.stat().st_size)
    with subprocess.Popen(  # noqa: S603 - this module
        [sys.executable, "-m", __name__],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        try:
            with suppress(BrokenPipeError):
                stdin.write(json.dumps(question).encode() + b"\n")
                stdin.close()
            for line in lines_within(stdout, seconds, in_all=True):
                found = _understood(json.loads(line))
        finally:
            process.kill()
    if not found.expected and not found.reasons:
        found.reasons = [_NOT_IN_TIME]
    return found


def _understood(answer: dict[str, Any]) -> Estimate:
    if "error" in answer:
        raise _ERRORS[answer["code"]](answer["error"])
    sizes = answer.pop("sizes")
    expected = {Level(level): size for level, size in answer.pop("expected").items()}
    return Estimate(**answer, sizes=Sizes(**sizes) if sizes else None, expected=expected)


def main() -> None:
    """Answer the question on standard input."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_MAX, _MEMORY_MAX))
    warnings.simplefilter("ignore")
    question: dict[str, Any] = json.loads(sys.stdin.readline())
    source = Path(question.pop("source"))
    try:
        for estimate in estimates(source, **question):
            _say(asdict(estimate))
    except AppError as error:
        _say({"error": error.detail, "code": error.code})
    except UNDECODABLE:
        _say({"error": "The PDF is damaged and cannot be read.", "code": "damaged_pdf"})


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
