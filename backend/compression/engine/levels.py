"""How far a document is compressed, and what that means for its images."""

from dataclasses import dataclass
from enum import StrEnum

from backend.compression.engine.errors import QualityOutOfRange

DEFAULT_QUALITY = 80


class Level(StrEnum):
    """How much a reader may notice, from nothing to some softness in photos."""

    LOSSLESS = "lossless"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Aim:
    """What an image is brought down to, and whether fonts keep their hints.

    `dpi` is pixels per inch as placed on the page, `quality` is libjpeg's 1 to 100, and
    `subsampling` is the JPEG's chroma layout in the words of Pillow. An image that looks less alike
    than `floor`, from 0 to 1, is brought down to what is `gentler`, if there is any.
    `bilevel_dpi` is for images in black and white, 0 to keep what they have.
    """

    dpi: int
    quality: int
    subsampling: str
    hints: bool = True
    bilevel_dpi: int = 0
    floor: float = 0.0
    gentler: "Aim | None" = None

    @property
    def gentlest(self) -> "Aim":
        """The last of what is gentler."""
        return self.gentler.gentlest if self.gentler is not None else self


@dataclass(frozen=True, slots=True)
class Step:
    """One way to compress a document, gentler than some and stronger than others.

    `aim` is None when the pixels of images stay as they are. `floor` is the least similarity of a
    page, from 0 to 1, with which a document may be handed on.
    """

    level: Level
    aim: Aim | None
    floor: float


# dpi, and what is added to the quality that was asked for: of these the first with which an image
# looks so much alike
_AIMS = {
    Level.LOW: (0.0, [(300, +5)]),
    Level.MEDIUM: (0.965, [(130, -22), (144, -15)]),
    Level.HIGH: (0.947, [(90, -50), (100, -40), (108, -30)]),
}
_FLOORS = {Level.LOSSLESS: 0.999, Level.LOW: 0.95, Level.MEDIUM: 0.93, Level.HIGH: 0.90}
# Who asks for a lower quality than the default means it: then only a ruined page is a fault.
_RUINED = 0.5
_SHRINKING_QUALITIES = (60, 45, 30, 15)


def steps_from(level: Level, image_quality: int) -> list[Step]:
    """The step that was asked for, and the gentler ones that are taken when it changes too much.

    Raises QualityOutOfRange unless `image_quality` is from 1 to 100.
    """
    levels = list(Level)
    gentler = levels[: levels.index(level) + 1]
    return [_step(each, image_quality) for each in reversed(gentler)]


def all_steps(image_quality: int) -> list[Step]:
    """The steps from the gentlest to the strongest, for a document that must get so small.

    Raises QualityOutOfRange unless `image_quality` is from 1 to 100.
    """
    below = [quality for quality in _SHRINKING_QUALITIES if quality < image_quality]
    return [_step(level, image_quality) for level in Level] + [
        _step(Level.HIGH, quality) for quality in below
    ]


def _step(level: Level, image_quality: int) -> Step:
    if not 1 <= image_quality <= 100:
        raise QualityOutOfRange(f"The image quality is {image_quality}; it can be 1 to 100.")
    if level is Level.LOSSLESS:
        return Step(level, None, _FLOORS[level])
    floor, ways = _AIMS[level]
    low, bilevel_dpi = level is Level.LOW, 300 if level is Level.HIGH else 0
    aim = None
    for dpi, shift in reversed(ways):
        quality = min(95, max(1, image_quality + shift))
        aim = Aim(dpi, quality, "4:4:4" if low else "4:2:0", low, bilevel_dpi, floor, aim)
    return Step(level, aim, _FLOORS[level] if image_quality >= DEFAULT_QUALITY else _RUINED)
