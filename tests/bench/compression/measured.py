"""All tools on the files of a folder: run one after another, then looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.compression import runs, tables
from tests.bench.compression.equal import Equal, equals
from tests.bench.compression.evaluation import Seen, Viewer, Viewers
from tests.bench.compression.runs import Series
from tests.bench.compression.summary import Outcomes, beside, outcomes, summarise
from tests.bench.compression.tools import REFERENCE, WARM, Tool


@dataclass
class Measured:
    """What came of each tool for each file. Outputs are in the folder `outputs`."""

    files: Sequence[Path]
    outputs: Path
    series: dict[str, Series] = field(default_factory=dict)
    seen: dict[str, dict[str, Seen]] = field(default_factory=dict)  # by file and tool

    def output(self, tool: str, file: Path) -> Path:
        """Where a tool writes; a number, since Ghostscript may take a name for a pattern."""
        return self.outputs / tool / f"{self.files.index(file)}.pdf"

    def run(self, name: str, tool: Tool, environment: Path, limit: float) -> None:
        """Run a tool for all files, each of which may take so many seconds."""
        (self.outputs / name).mkdir(parents=True)
        series = self.series[name] = Series(tool.title)
        if name.endswith(WARM):
            targets = {file: self.output(name, file) for file in self.files}
            runs.run_warm(tool.command, targets, series, limit)
            return
        for file in self.files:
            target = self.output(name, file)
            line = tool.line(environment, file, target)
            series.runs[file.name] = runs.run(line, file, target, series, limit)

    def see(self, viewers: Viewers) -> None:
        """Look at all outputs."""

        def see(viewer: Viewer, file: Path) -> dict[str, Seen]:
            there = {
                name: self.output(name, file)
                for name, series in self.series.items()
                if series.runs[file.name].status == runs.OK
            }
            return viewer.see_all(file, there)

        found = viewers.map(see, self.files)
        self.seen = {file.name: each for file, each in zip(self.files, found, strict=True)}

    def outcomes(self) -> Mapping[str, Outcomes]:
        """What each tool made of the files that can be opened."""
        return {name: outcomes(each, self.seen, name) for name, each in self.series.items()}

    def equals(self, viewers: Viewers) -> list[Equal]:
        """The files that the reference leaves whole, by Sluice at the same similarity."""
        whole = [name for name, each in self.outcomes()[REFERENCE].items() if each.whole]
        files = [file for file in self.files if file.name in whole]
        return equals(viewers, {file: self.output(REFERENCE, file) for file in files})

    def tables(self, *, seconds: bool) -> list[str]:
        """The tables of all tools, and of tools beside the reference."""
        of = self.outcomes()
        found = {name: summarise(each, of[name]) for name, each in self.series.items()}
        parts = [tables.tools(found, REFERENCE, seconds=seconds)]
        if lost := tables.losses(found):
            parts += ["Lost, in how many files:", lost]
        if REFERENCE in of:
            names = [name for name in of if name != REFERENCE and not name.endswith(WARM)]
            both = {found[name].title: beside(of[name], of[REFERENCE]) for name in names}
            title = found[REFERENCE].title
            parts.append(f"On the files that {title} leaves whole, and the tool too:")
            parts.append(tables.besides(both, title))
        return parts

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured."""
        of = self.outcomes()
        return {
            "tools": {
                name: {**asdict(summarise(each, of[name])), **asdict(each)}
                for name, each in self.series.items()
            },
            "seen": self.seen,
        }
