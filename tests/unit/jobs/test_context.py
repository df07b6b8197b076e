"""What a job's function is given."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backend.jobs import JobContext
from backend.jobs.context import Cancelled
from tests.unit.jobs import probes


@dataclass
class Listener:
    """A reporter that remembers, and wants the job to stop after so many reports."""

    stop_after: int = 1000
    shown: list[tuple[Any, ...]] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)

    @property
    def stop_wanted(self) -> bool:
        return len(self.shown) >= self.stop_after

    def progress(self, *shown: Any) -> None:
        self.shown.append(shown)

    def line(self, level: str, message: str) -> None:
        self.lines.append((level, message))


def context(tmp_path: Path, listener: Listener) -> JobContext:
    return JobContext(folder=tmp_path, kind=probes.items, reporter=listener)


def test_tracking_yields_the_items_and_says_how_far_it_is(tmp_path: Path) -> None:
    listener = Listener()

    assert list(context(tmp_path, listener).track("write", ["a", "b"], noun="file")) == ["a", "b"]

    # The stage begins at a quarter of the bar; a hundred is for the ledger to say.
    assert listener.shown == [
        (25.0, "write", "Write: file 1/2", 0, 2),
        (62.5, "write", "Write: file 2/2", 1, 2),
        (99.9, "write", "Write", 2, 2),
    ]


def test_tracking_a_stream_of_unknown_length_counts_without_a_total(tmp_path: Path) -> None:
    listener = Listener()
    list(context(tmp_path, listener).track("read", iter("ab")))

    assert [shown[2] for shown in listener.shown] == ["Read: item 1", "Read: item 2", "Read"]


def test_tracking_stops_at_a_cancel_before_the_next_item(tmp_path: Path) -> None:
    items = context(tmp_path, Listener(stop_after=2)).track("write", range(10))
    assert [next(items), next(items)] == [0, 1]

    with pytest.raises(Cancelled):
        next(items)


def test_a_cancel_is_not_swallowed_by_a_broad_except(tmp_path: Path) -> None:
    ctx = context(tmp_path, Listener(stop_after=0))
    with pytest.raises(Cancelled), suppress(Exception):
        ctx.check_cancelled()


@pytest.mark.parametrize(
    ("fraction", "percent"), [(-1, 0.0), (0.5, 12.5), (7, 25.0), (float("nan"), 0.0)]
)
def test_a_fraction_out_of_bounds_is_kept_in_them(
    tmp_path: Path, fraction: float, percent: float
) -> None:
    listener = Listener()
    context(tmp_path, listener).report("reading", fraction, "read")

    assert listener.shown[0][0] == percent


def test_a_direct_call_needs_nothing_but_a_folder(tmp_path: Path) -> None:
    ctx = JobContext(folder=tmp_path)
    ctx.report("working", 0.5)
    ctx.log("a line")
    ctx.check_cancelled()
    ctx.checkpoint({"page": 1})
    ctx.publish(tmp_path / "out.txt", "out.txt", "text/plain")
    with ctx.transaction():
        pass

    assert [file.name for file in ctx.published] == ["out.txt"]
