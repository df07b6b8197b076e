"""What was measured, and how it is shown: on the terminal, as Markdown, as JSON."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.queues.systems import SYSTEMS


@dataclass
class Figure:
    """One number of one system, from each round. `more_is_better` says which way is good."""

    measure: str
    name: str
    unit: str
    system: str
    more_is_better: bool = False
    values: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """The rounds' median."""
        return statistics.median(self.values)


@dataclass
class Report:
    """All figures of a run."""

    reference: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        measure: str,
        name: str,
        unit: str,
        system: str,
        value: float,
        *,
        more_is_better: bool = False,
        note: str = "",
    ) -> None:
        """Add a round's value."""
        for figure in self.figures:
            if (figure.measure, figure.name, figure.system) == (measure, name, system):
                break
        else:
            figure = Figure(measure, name, unit, system, more_is_better)
            self.figures.append(figure)
        figure.values.append(value)
        figure.note = note or figure.note

    def ratio(self, figure: Figure) -> str:
        """The figure ÷ the reference's: 2 in jobs/s is twice as fast, in ms half."""
        for other in self.figures:
            same = (other.measure, other.name) == (figure.measure, figure.name)
            if same and other.system == self.reference and other.median:
                return f"{figure.median / other.median:.2f}"
        return ""

    def rows(self) -> Iterable[Sequence[str]]:
        """The table's rows; the systems of one figure stand together."""
        groups = dict.fromkeys((figure.measure, figure.name) for figure in self.figures)
        for group in groups:
            for figure in self.figures:
                if (figure.measure, figure.name) == group:
                    spread = f"{_short(min(figure.values))} … {_short(max(figure.values))}"
                    yield (
                        figure.measure,
                        f"{figure.name}, {figure.unit}" if figure.unit else figure.name,
                        SYSTEMS[figure.system].title,
                        _short(figure.median),
                        spread if len(figure.values) > 1 else "",
                        self.ratio(figure),
                        figure.note,
                    )

    @property
    def head(self) -> Sequence[str]:
        """The table's head."""
        return (
            *("measure", "figure", "system", "median", "min … max"),
            f"÷ {SYSTEMS[self.reference].title}",
            "note",
        )

    def show(self) -> None:
        """Show the table on the terminal."""
        table = Table(*self.head)
        for row in self.rows():
            table.add_row(*row)
        Console(width=170).print(table)

    def markdown(self, versions: Mapping[str, str], command: str) -> str:
        """The table as GitHub reads it, with what it takes to make it again."""
        lines = [_row(self.head), _row(["---"] * 3 + ["---:"] * 3 + ["---"])]
        lines += [_row(row) for row in self.rows()]
        said = ", ".join(f"{name} {version}" for name, version in versions.items())
        tail = f"`{command}`; {said}. The ratio is the row's figure ÷ that of the system named."
        return "\n".join([*lines, "", tail])

    def as_json(self, versions: Mapping[str, str], command: str) -> dict[str, Any]:
        """Everything, with each round's value."""
        figures = [{**vars(figure), "median": figure.median} for figure in self.figures]
        return {
            "command": command,
            "versions": dict(versions),
            "reference": self.reference,
            "figures": figures,
        }


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
