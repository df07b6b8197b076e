"""A program of the rivals' environment that looks at PDFs, and knows nothing of Sluice.

A line of JSON asks, `{"source": path, "output": path or null, "dpi": number, "pages": most}`, and
a line of JSON answers: without an output `{"opens": bool, "pages": number}` of the source, with
one how the output differs from it:

    opens      whether the output can be read and has pages
    ssim       structural similarity of the pages' luma, the mean of the first ones; `worst` the
               lowest (Wang et al. 2004, as scikit-image has it)
    colour     the mean difference of a channel, from 0 to 255
    losses     the names of what the source has and the output has not
    repaired   whether there is something to see, where the source cannot be opened

A PDF may end PDFium, and so this program; it is started anew then.
"""

import json
import logging
import re
import statistics
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import inventory
import numpy as np
import pypdfium2 as pdfium
from skimage.metrics import structural_similarity

SIDE_MAX = 2400  # pixels; larger pages are rendered smaller
TEXT_PAGES = 50
SIDE_MIN = 7  # pixels, the window of the similarity
# So many characters may be missing, or this share: extractors differ.
LOST_MAX, LOST_SHARE = 2, 0.002
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
BLANK = re.compile(r"[\s\0]")
# What the two libraries raise for what is malformed.
MALFORMED = (*inventory.MALFORMED, pdfium.PdfiumError)


@dataclass(frozen=True)
class Looks:
    """What PDFium makes of a document: pages' pixels in RGB, None where there are none."""

    count: int
    pages: list[Any]
    text: str
    outline: int


NOTHING = Looks(0, [], "", 0)


def looks(path: str, dpi: float, most: int) -> Looks:
    """Render the first pages of a document and read its text."""
    document = pdfium.PdfDocument(path)
    try:
        if document.get_formtype() != pdfium.raw.FORMTYPE_NONE:
            document.init_forms()  # else fields are not drawn
        count = len(document)
        pages = [_rendered(document, index, dpi) for index in range(min(count, most))]
        text = "".join(_text(document, index) for index in range(min(count, TEXT_PAGES)))
        return Looks(count, pages, BLANK.sub("", text), _outline(document))
    finally:
        document.close()


# All outputs of a source are asked for one after another.
known_looks = lru_cache(maxsize=1)(looks)
known_inventory = lru_cache(maxsize=1)(inventory.of)


def _rendered(document: pdfium.PdfDocument, index: int, dpi: float) -> Any:
    try:
        page = document[index]
        scale = min(dpi / 72, SIDE_MAX / max(1.0, *page.get_size()))
        bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
        pixels = bitmap.to_numpy()[:, :, :3].copy()
        page.close()
    except MALFORMED:
        return None
    return pixels


def _text(document: pdfium.PdfDocument, index: int) -> str:
    try:
        return str(document[index].get_textpage().get_text_range())
    except MALFORMED:
        return ""


def _outline(document: pdfium.PdfDocument) -> int:
    try:
        return sum(1 for _ in document.get_toc())
    except MALFORMED:
        return 0


def alike(before: Any, after: Any) -> tuple[float, float]:
    """The similarity of two renderings of a page, and the mean difference of a channel."""
    if after is None or np.abs(np.subtract(before.shape, after.shape)).max() > 2:
        return 0.0, 255.0
    height, width = np.minimum(before.shape, after.shape)[:2]
    before, after = before[:height, :width], after[:height, :width]
    if np.array_equal(before, after):
        return 1.0, 0.0
    colour = float(np.abs(before.astype(np.int16) - after).mean())
    if min(height, width) < SIDE_MIN:
        return float(colour < 2), colour
    gray = (each.astype(np.float32) @ LUMA for each in (before, after))
    return float(structural_similarity(*gray, data_range=255)), colour


def judged(source: str, output: str, dpi: float, most: int) -> dict[str, Any]:
    """How an output differs from its source."""
    try:
        after = looks(output, dpi, most)
    except MALFORMED as error:
        return {"opens": False, "error": repr(error)[:200], "losses": []}
    found: dict[str, Any] = {"opens": after.count > 0, "losses": []}
    try:
        before = known_looks(source, dpi, most)
    except MALFORMED:
        before = NOTHING
    if before.count:
        found |= _similarity(before, after)
        found["losses"] += _missing(before, after)
    else:
        shown = any(page is not None and page.min() != page.max() for page in after.pages)
        found["repaired"] = bool(after.text) or shown
    found["losses"] += _structure(source, output)
    return found


def _similarity(before: Looks, after: Looks) -> dict[str, float]:
    there = [*after.pages, *[None] * len(before.pages)]
    each = [alike(page, there[i]) for i, page in enumerate(before.pages) if page is not None]
    if not each:
        return {}
    ssim, colour = zip(*each, strict=True)
    return {
        "ssim": round(statistics.fmean(ssim), 5),
        "worst": round(min(ssim), 5),
        "colour": round(statistics.fmean(colour), 3),
    }


def _missing(before: Looks, after: Looks) -> Iterator[str]:
    if after.count != before.count:
        yield "pages"
    lost = (Counter(before.text) - Counter(after.text)).total()
    if lost > max(LOST_MAX, LOST_SHARE * len(before.text)):
        yield "text"
    if after.outline < before.outline:
        yield "outline"


def _structure(source: str, output: str) -> list[str]:
    try:
        before = known_inventory(source)
    except MALFORMED:
        return []  # there is nothing to compare with
    try:
        after = inventory.of(output)
        lost = inventory.losses(before, after)
    except MALFORMED:
        return ["everything: it cannot be read"]
    # What is only appended to keeps a signature valid.
    if before["signatures"] and not Path(output).read_bytes().startswith(Path(source).read_bytes()):
        lost.append("signature")
    return lost


def _seen(source: str, dpi: float, most: int) -> dict[str, Any]:
    try:
        count = known_looks(source, dpi, most).count
    except MALFORMED as error:
        return {"opens": False, "pages": 0, "error": repr(error)[:200]}
    return {"opens": count > 0, "pages": count}


def main() -> None:
    """Answer every line of standard input, until there are no more."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        asked = json.loads(line)
        source, output, dpi, most = (asked[key] for key in ("source", "output", "dpi", "pages"))
        answer = judged(source, output, dpi, most) if output else _seen(source, dpi, most)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
