"""What came of compressing one document, and how that was checked."""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pikepdf import Pdf

from backend.compression.engine.comparison import Comparison
from backend.compression.engine.inventory import Inventory, inventory_of
from backend.compression.engine.levels import Level
from backend.compression.engine.sizes import Sizes, sizes_of

# The mean difference of a colour channel, of 255. A photo at the strongest level has 8.
_COLOUR_MAX = 16.0
_LEAST_ALIKE = 20
_WORDS = {
    "outline": "bookmarks",
    "form_fields": "form fields",
    "xfa": "the XFA form",
    "language": "the language",
    "page_labels": "page labels",
    "encrypted": "the encryption",
    "signed": "signatures",
    "pdfa": "the PDF/A claim",
    "pdfua": "the PDF/UA claim",
}


class SignedPolicy(StrEnum):
    """What is done with a signed document: any change makes its signature invalid."""

    SKIP = "skip"
    COPY_AND_INVALIDATE = "copy_and_invalidate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a document consists of, in bytes, and what it has."""

    sizes: Sizes
    inventory: Inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The receipt for one document.

    `changed` is False when the original was kept, byte for byte; then `after` is `before`. `level`
    is the one that was used, which is gentler than the one asked for when that one changed too
    much. `images` counts the images in the document, each once, and `images_recoded` those that
    are stored in another way now. `comparison` says how alike the pages are, None where nothing
    was written. `done` and `left` are sentences: what was done, and what was not and why. `note` is
    the one of them that a person should read first, or None when there is nothing special to say.
    """

    original_bytes: int
    compressed_bytes: int
    level: Level
    changed: bool
    images: int
    images_recoded: int
    before: Contents
    after: Contents
    comparison: Comparison | None = None
    done: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    note: str | None = None

    def kept(self, reason: str) -> "Receipt":
        """The receipt for the original itself, kept for this reason."""
        return replace(
            self,
            compressed_bytes=self.original_bytes,
            changed=False,
            images_recoded=0,
            after=self.before,
            comparison=None,
            done=(),
            left=(*self.left, reason),
            note=reason,
        )

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, ready for JSON."""
        pages = self.before.inventory
        seen = self.comparison
        return {
            "pages": pages.pages,
            "changed": self.changed,
            "signed": pages.signed,
            "encrypted": pages.encrypted,
            "images": self.images,
            "images_recoded": self.images_recoded,
            "note": self.note,
            "original_bytes": self.original_bytes,
            "compressed_bytes": self.compressed_bytes,
            "level": self.level.value,
            "before": _plain(self.before),
            "after": _plain(self.after),
            "similarity": _similarity(seen) if seen is not None else None,
            "done": list(self.done),
            "left": list(self.left),
        }


def contents_of(pdf: Pdf, path: Path) -> Contents:
    """What an open document has, and what its file's bytes are of."""
    return Contents(sizes=sizes_of(pdf, path.stat().st_size), inventory=inventory_of(pdf))


def faults(
    before: Inventory, after: Inventory, seen: Comparison, floor: float, *, attachments: bool
) -> list[str]:
    """Why a written document must not be handed on: sentences, none when all is well.

    `floor` is the least similarity of a page. With `attachments` the contents of attached files
    may have changed, and their names may not.
    """
    names = before.differences(after)
    if attachments and list(before.attachments) == list(after.attachments):
        names = [name for name in names if name != "attachments"]
    found = [f"{_WORDS.get(name, name)} would have changed" for name in names]
    if seen.problem is not None:
        found.append(f"the pages could not be compared: {seen.problem}")
    if seen.text_changed:
        found.append(f"the text of page {min(seen.text_changed)} would have changed")
    worst = seen.worst_page
    if worst is not None and seen.ssim[worst] < floor:
        found.append(
            f"page {worst} would have looked too different (similarity {seen.ssim[worst]:.3f},"
            f" at least {floor} is wanted)"
        )
    off = max(seen.colour, key=lambda page: seen.colour[page], default=None)
    if off is not None and seen.colour[off] > _COLOUR_MAX:
        found.append(f"the colours of page {off} would have changed")
    return found


def _plain(contents: Contents) -> dict[str, Any]:
    inventory = asdict(contents.inventory)
    for many in ("attachments", "metadata"):
        inventory[many] = len(inventory[many])
    return {"sizes": asdict(contents.sizes), **inventory}


def _similarity(seen: Comparison) -> dict[str, Any]:
    lowest = sorted(seen.ssim.items(), key=lambda each: each[1])[:_LEAST_ALIKE]
    return {
        "pages_compared": len(seen.ssim),
        "mean": round(seen.mean, 5) if seen.mean is not None else None,
        "worst": seen.worst,
        "text_equal": not seen.text_changed,
        "least_alike": [{"page": page, "ssim": value} for page, value in lowest],
    }
