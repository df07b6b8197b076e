"""What came of compressing one document."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """The receipt for one document.

    `changed` is False when the original was kept, byte for byte. `images` counts the images in
    the document, each once, and `images_recoded` those that are stored in another way now.
    `note` is one sentence for a person, or None when there is nothing special to say.
    """

    original_bytes: int
    compressed_bytes: int
    pages: int
    changed: bool
    signed: bool
    encrypted: bool
    images: int
    images_recoded: int
    note: str | None

    def receipt(self) -> dict[str, int | bool | str | None]:
        """The same as plain values, ready for JSON."""
        return asdict(self)
