"""How far a document is compressed, and what that means for its images."""

from dataclasses import dataclass
from enum import StrEnum

from backend.compression.engine.errors import QualityOutOfRange


class Level(StrEnum):
    """How much a reader may notice, from nothing to some softness in photos."""

    LOSSLESS = "lossless"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Aim:
    """What an image is brought down to.

    `dpi` is pixels per inch as placed on the page, `quality` is libjpeg's 1 to 100, and
    `subsampling` is the JPEG's chroma layout in the words of Pillow.
    """

    dpi: int
    quality: int
    subsampling: str


# dpi, what is added to the quality that was asked for, chroma layout
_AIMS = {
    Level.LOW: (300, +5, "4:4:4"),
    Level.MEDIUM: (144, -15, "4:2:0"),
    Level.HIGH: (105, -27, "4:2:0"),
}


def aim_of(level: Level, image_quality: int) -> Aim | None:
    """What images are brought down to, or None when their pixels stay as they are.

    Raises QualityOutOfRange unless `image_quality` is from 1 to 100.
    """
    if not 1 <= image_quality <= 100:
        raise QualityOutOfRange(f"The image quality is {image_quality}; it can be 1 to 100.")
    if level is Level.LOSSLESS:
        return None
    dpi, shift, subsampling = _AIMS[level]
    return Aim(dpi, min(95, max(1, image_quality + shift)), subsampling)
