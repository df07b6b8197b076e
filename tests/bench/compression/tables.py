"""Tables as GitHub reads them."""

from collections.abc import Iterable, Mapping, Sequence

from tests.bench.compression.equal import Equal
from tests.bench.compression.summary import Beside, Summary


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def tools(summaries: Mapping[str, Summary], reference: str, *, seconds: bool = False) -> str:
    """All tools, the smallest ratio first; what they cost beside the reference's cost."""
    base = summaries.get(reference)
    beside = f" ÷ {base.title}" if base else ", s"
    head = ["tool", "ratio", "strict ratio", "SSIM", "SSIM, 5 %", "grew", "lost structure"]
    head += ["failed", "crashes", f"CPU{beside}", f"time{beside}", "peak MB"]
    head += ["time, s"] if seconds and base else []
    rows = []
    for each in sorted(summaries.values(), key=lambda each: each.strict_ratio):
        row = [each.title, f"{each.ratio:.3f}", f"{each.strict_ratio:.3f}"]
        row += [_similarity(each.ssim), _similarity(each.ssim_low)]
        row += map(str, (each.grown, each.lossy, each.failed, each.crashes))
        row += [
            _times(each.cpu, base.cpu if base else 1),
            _times(each.wall, base.wall if base else 1),
        ]
        row += [f"{each.rss_mb:.0f}"]
        rows.append([*row, f"{each.wall:.1f}"] if seconds and base else row)
    return table(head, rows)


def losses(summaries: Mapping[str, Summary]) -> str:
    """What was lost in how many files, one line a tool."""
    return "\n".join(
        f"- {each.title}: " + ", ".join(f"{name} {count}" for name, count in each.losses.items())
        for each in summaries.values()
        if each.losses
    )


def besides(found: Mapping[str, Beside | None], reference: str) -> str:
    """Tools on the files that the reference leaves whole."""
    head = [
        "tool",
        "files",
        f"bytes ÷ {reference}",
        "SSIM, difference",
        "no larger, looks no worse",
    ]
    rows = []
    for title, each in found.items():
        if each is not None:
            row = [title, f"{each.files} of {each.of}", f"{each.ratio:.3f}", f"{each.ssim:+.4f}"]
            rows.append([*row, str(each.smaller)])
    return table(head, rows)


def equals(found: Sequence[Equal], reference: str) -> str:
    """Sluice beside the reference where both look alike."""
    ours, theirs = (sum(sizes) for sizes in zip(*((e.ours, e.theirs) for e in found), strict=True))
    count = len(found)
    levels = [e.level for e in found]
    used = ", ".join(f"{level} {levels.count(level)}" for level in dict.fromkeys(sorted(levels)))
    row = [str(count), f"{ours / theirs:.3f}", str(sum(e.ours <= e.theirs for e in found))]
    row += [f"{sum(e.ssim for e in found) / count:.4f}"]
    row += [f"{sum(e.wanted for e in found) / count:.4f}", used]
    head = ["files", f"bytes ÷ {reference}", "no larger", "SSIM", f"{reference}'s", "levels"]
    return table(head, [row])


def _similarity(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _times(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base else ""
