"""A program that renders two PDFs by PDFium, and says how alike their pages are.

It runs by itself (`python -m` and this module's name), since PDFium is written in C++ and a hostile
document may end it; so it imports little. A line of JSON asks, `{"before": path, "after": path,
"password": text or null, "seconds": most}`, and lines of JSON answer: one for each page that was
compared, and a last one, `{"pages": [before, after]}` or `{"problem": sentence}`.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pypdfium2 as pdfium
from PIL import Image

from backend.compression.viewing.similarity import BLOCK, Pixels, similarity

DPI = 100
_PAGES_MAX = 100  # of a longer document so many are compared, spread over it
_SIDE_MAX = 2400  # pixels; larger pages are rendered smaller
_MEMORY_MAX = 2**30
_BLANK = re.compile(r"[\s\0]+")


def _answers(
    before: str, after: str, password: str | None, seconds: float
) -> Iterator[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    try:
        original = _open(before, password)
    except pdfium.PdfiumError as error:
        yield {"problem": f"the original cannot be rendered: {error}"}
        return
    try:
        written = _open(after, password)
    except pdfium.PdfiumError as error:
        yield {"problem": f"the smaller file cannot be rendered: {error}"}
        return
    counts = [len(original), len(written)]
    if counts[0] == counts[1]:
        for index in _spread(counts[0])[:_PAGES_MAX]:
            yield {"page": index + 1, **_compared(original, written, index)}
            if time.monotonic() > deadline:
                break
    yield {"pages": counts}
    written.close()
    original.close()


def _open(path: str, password: str | None) -> pdfium.PdfDocument:
    document = pdfium.PdfDocument(path, password=password or None)
    if document.get_formtype() != pdfium.raw.FORMTYPE_NONE:
        document.init_forms()  # else fields are not drawn
    return document


def _spread(count: int) -> list[int]:
    """Page numbers from 0, in an order whose every beginning is spread over the document."""
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda index: f"{index:0{bits}b}"[::-1])


def _compared(
    original: pdfium.PdfDocument, written: pdfium.PdfDocument, index: int
) -> dict[str, Any]:
    with ExitStack() as bitmaps:
        try:
            before, text = _rendered(original, index, bitmaps)
        except pdfium.PdfiumError:
            return {"ssim": None, "colour": None, "text": True}  # it showed nothing before either
        try:
            after, new_text = _rendered(written, index, bitmaps)
        except pdfium.PdfiumError:
            return {"ssim": 0.0, "colour": 255.0, "text": False}
        ssim, colour = _alike(before, after)
        return {"ssim": round(ssim, 5), "colour": round(colour, 3), "text": text == new_text}


def _alike(before: Pixels, after: Pixels) -> tuple[float, float]:
    if before.shape != after.shape:
        return 0.0, 255.0
    changed = np.flatnonzero((before != after).any((1, 2)))
    if not len(changed):
        return 1.0, 0.0
    height = len(before)
    rows = slice(changed[0] // BLOCK * BLOCK, changed[-1] + 1)
    share = (rows.stop - rows.start) / height
    before, after = before[rows], after[rows]
    colour = np.abs(before[::4, ::4].astype(np.int16) - after[::4, ::4]).mean()
    return 1 - share * (1 - similarity(_gray(before), _gray(after))), share * float(colour)


def _rendered(
    document: pdfium.PdfDocument, index: int, bitmaps: ExitStack
) -> tuple[Pixels, list[str]]:
    """A page's pixels in red, green and blue, and its characters in order of their codes."""
    page = document[index]
    try:
        scale = min(DPI / 72, _SIDE_MAX / max(1.0, *page.get_size()))
        bitmap = page.render(scale=scale, rev_byteorder=True)
        bitmaps.callback(bitmap.close)
        lines = page.get_textpage()
        # Extractors guess blanks, and the order of what stands side by side.
        text = sorted(_BLANK.sub("", lines.get_text_range()))
        lines.close()
    finally:
        page.close()
    return bitmap.to_numpy(), text


def _gray(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def main() -> None:
    """Answer every line of standard input, until there are no more."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_MAX, _MEMORY_MAX))
    for line in sys.stdin:
        for answer in _answers(**json.loads(line)):
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
