"""How many bytes Sluice needs to look as well as another tool, file by file.

At 200 dpi, twice what the levels are checked with: what a tool saves by fewer pixels shows.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.compression.evaluation import Viewer, Viewers
from tests.bench.compression.runs import OK, Series, run
from tests.bench.compression.tools import ours

DPI = 200
QUALITIES = range(20, 101, 5)
SECONDS = 600.0


@dataclass(frozen=True)
class Equal:
    """A file at the gentlest need: Sluice's bytes and similarity, and the other tool's."""

    file: str
    level: str
    quality: int
    ours: int
    theirs: int
    ssim: float
    wanted: float


def equals(viewers: Viewers, pairs: Mapping[Path, Path]) -> list[Equal]:
    """For each original and another tool's output of it, what Sluice does as well."""
    return [each for each in viewers.map(_equal, list(pairs.items())) if each is not None]


def _equal(viewer: Viewer, pair: tuple[Path, Path]) -> Equal | None:
    source, theirs = pair
    wanted = viewer.see(source, theirs, dpi=DPI).get("ssim")
    if wanted is None:
        return None
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        tries = _Tries(viewer, source, Path(folder))
        found = [each for level in ("high", "medium") if (each := tries.least(level, wanted))]
        # Where fewer pixels than the other tool's are not enough.
        found = found or [each for each in [tries.least("low", wanted)] if each]
        found = found or [tries.made("lossless", 100)]
        best = min(found, key=lambda each: (each.ssim, each.size))
        size = theirs.stat().st_size
        return Equal(source.name, best.level, best.quality, best.size, size, best.ssim, wanted)


@dataclass(frozen=True)
class _Try:
    level: str
    quality: int
    size: int
    ssim: float


@dataclass
class _Tries:
    viewer: Viewer
    source: Path
    folder: Path
    known: dict[tuple[str, int], _Try] = field(default_factory=dict)

    def least(self, level: str, wanted: float) -> _Try | None:
        """The lowest quality at which a level looks as well, by halves; None if none does."""
        low, high = 0, len(QUALITIES)
        while low < high:
            middle = (low + high) // 2
            if self.made(level, QUALITIES[middle]).ssim >= wanted:
                high = middle
            else:
                low = middle + 1
        return self.made(level, QUALITIES[low]) if low < len(QUALITIES) else None

    def made(self, level: str, quality: int) -> _Try:
        """The file at a level and quality."""
        if (level, quality) not in self.known:
            target = self.folder / f"{level}-{quality}.pdf"
            line = ours(level, quality).line(Path(), self.source, target)
            ended = run(line, self.source, target, Series(""), SECONDS)
            ssim = 0.0
            if ended.status == OK:
                ssim = self.viewer.see(self.source, target, dpi=DPI).get("ssim", 0.0)
            self.known[level, quality] = _Try(level, quality, ended.out_bytes, ssim)
        return self.known[level, quality]
