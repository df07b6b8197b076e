"""What came of all runs, in a few numbers a tool.

The ratio is of the bytes that somebody would be handed to the bytes that came: the output, or the
original where the tool failed, wrote what cannot be opened, or made it larger. For the strict ratio
the original counts also where the output lost something, or has a page under `ALIKE`. Originals
that PDFium cannot open are in no ratio.
"""

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.compression.evaluation import Seen
from tests.bench.compression.runs import KILLED, OK, TIMEOUT, Run, Series

ALIKE = 0.90
# To be handed a file without its password is no loss to who could open it without one.
FORGIVEN = {"encryption"}


@dataclass(frozen=True)
class Outcome:
    """What a tool made of a file, and how that looks; None where there was nothing to look at."""

    run: Run
    seen: Seen | None

    @property
    def usable(self) -> bool:
        """Whether there is an output that can be opened."""
        return self.run.status == OK and self.seen is not None and bool(self.seen["opens"])

    @property
    def whole(self) -> bool:
        """Whether nothing is missing in it, and no page is ruined."""
        seen = self.seen or {}
        lost = set(seen.get("losses", [])) - FORGIVEN
        return self.usable and not lost and seen.get("worst", 1.0) >= ALIKE

    @property
    def ssim(self) -> float | None:
        """The mean similarity of its pages."""
        return self.seen.get("ssim") if self.usable and self.seen else None

    @property
    def handed(self) -> int:
        """The bytes that somebody would be handed."""
        return min(self.run.out_bytes, self.run.in_bytes) if self.usable else self.run.in_bytes

    @property
    def handed_unasked(self) -> int:
        """The bytes where nobody would be handed less than there was."""
        return self.handed if self.whole else self.run.in_bytes


Outcomes = Mapping[str, Outcome]  # by file


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A tool's numbers. The similarities are None when no page of any file could be compared."""

    title: str
    files: int
    ratio: float
    strict_ratio: float
    ssim: float | None
    ssim_low: float | None  # of 20 files one is lower
    grown: int
    lossy: int
    losses: dict[str, int]
    failed: int
    crashes: int
    wall: float
    cpu: float
    rss_mb: float


def outcomes(series: Series, seen: Mapping[str, Mapping[str, Seen]], name: str) -> Outcomes:
    """The outcomes of a tool for files that can be opened; `seen` is by file and tool."""
    return {
        file: Outcome(run, seen[file].get(name))
        for file, run in series.runs.items()
        if seen[file][""]["opens"]
    }


def summarise(series: Series, of: Outcomes) -> Summary:
    """A tool's numbers; what the runs cost is of all files."""
    usable = [each for each in of.values() if each.usable]
    lost = [each.seen["losses"] for each in usable if each.seen]
    similar = sorted(each.ssim for each in usable if each.ssim is not None)
    total = max(1, sum(each.run.in_bytes for each in of.values()))
    return Summary(
        title=series.title,
        files=len(of),
        ratio=sum(each.handed for each in of.values()) / total,
        strict_ratio=sum(each.handed_unasked for each in of.values()) / total,
        ssim=statistics.fmean(similar) if similar else None,
        ssim_low=similar[int(0.05 * len(similar))] if similar else None,
        grown=sum(each.run.out_bytes > each.run.in_bytes for each in usable),
        lossy=sum(map(bool, lost)),
        losses=dict(Counter(name for names in lost for name in names).most_common()),
        failed=len(of) - len(usable),
        crashes=sum(run.status in (KILLED, TIMEOUT) for run in series.runs.values()),
        wall=series.wall,
        cpu=series.cpu,
        rss_mb=series.rss_mb,
    )


@dataclass(frozen=True)
class Beside:
    """Two tools' outputs of the same files: bytes to bytes, and the difference in similarity."""

    files: int
    of: int
    ratio: float
    ssim: float
    smaller: int


def beside(tool: Outcomes, reference: Outcomes) -> Beside | None:
    """A tool beside another one, on the files that the other leaves whole and it too.

    `of` counts all that the other leaves whole, and `smaller` those where the tool's are no larger
    and look no worse. None when there are no such files.
    """
    kept = [file for file, each in reference.items() if each.whole and each.ssim is not None]
    both = [file for file in kept if file in tool and tool[file].whole and tool[file].ssim]
    if not both:
        return None
    differences = {file: (tool[file].ssim or 0) - (reference[file].ssim or 0) for file in both}
    sizes = {file: (tool[file].run.out_bytes, reference[file].run.out_bytes) for file in both}
    return Beside(
        files=len(both),
        of=len(kept),
        ratio=sum(size for size, _ in sizes.values()) / sum(size for _, size in sizes.values()),
        ssim=statistics.fmean(differences.values()),
        smaller=sum(
            sizes[file][0] <= sizes[file][1] and differences[file] >= -0.0005 for file in both
        ),
    )
