"""A program that renders two PDFs by PDFium, and says how alike their pages are.

It runs by itself, started with the path of this file, since PDFium is written in C++ and a hostile
document may end it. A line of JSON asks, `{"before": path, "after": path, "password": text or null,
"seconds": most}`, and lines of JSON answer: one for each page that was compared, and a last one,
`{"pages": [before, after]}` or `{"problem": sentence}`.
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
from numpy.typing import NDArray
from PIL import Image

DPI = 100
_SIDE_MAX = 2400  # pixels; larger pages are rendered smaller
_BLOCK = 8  # pixels
_MEMORY_MAX = 2**30
# Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
# Transactions on Image Processing 13 (2004), equation 13, for values from 0 to 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_BLANK = re.compile(r"[\s\0]+")

Pixels = NDArray[np.uint8]


def similarity(before: Pixels, after: Pixels) -> float:
    """The mean structural similarity of two gray pictures of one size, in blocks of 8 by 8."""
    a, b = (_blocks(each) for each in (before, after))
    count = len(a)
    changed = (a != b).any(1)
    a, b = (each[changed].astype(np.float32) for each in (a, b))
    size = _BLOCK * _BLOCK
    mean_a, mean_b = a.sum(1) / size, b.sum(1) / size
    square_a, square_b = (np.einsum("ij,ij->i", each, each) / size for each in (a, b))
    product = np.einsum("ij,ij->i", a, b) / size
    spread = square_a - mean_a**2 + square_b - mean_b**2
    common = product - mean_a * mean_b
    alike = (2 * mean_a * mean_b + _C1) * (2 * common + _C2)
    alike /= (mean_a**2 + mean_b**2 + _C1) * (spread + _C2)
    return float(alike.sum() + count - len(a)) / count


def _blocks(picture: Pixels) -> Pixels:
    height, width = picture.shape
    down, across = -height % _BLOCK, -width % _BLOCK
    whole = np.pad(picture, ((0, down), (0, across)), mode="edge")
    rows = whole.reshape(whole.shape[0] // _BLOCK, _BLOCK, -1, _BLOCK)
    return rows.swapaxes(1, 2).reshape(-1, _BLOCK * _BLOCK)


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
        for index in _spread(counts[0]):
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
    rows = slice(changed[0] // _BLOCK * _BLOCK, changed[-1] + 1)
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
