"""How small PDFs become, how they look then and what they lose, beside other tools.

    scripts/bench compress --corpus FOLDER [--level medium,high] [--rivals gs,qpdf] [--equal]

All tools in one run on the same files, one after another so that their times can be compared. What
they wrote is looked at afterwards by programs that know nothing of Sluice: PDFium renders the first
ten pages at 100 dpi, scikit-image compares them, pikepdf counts what there is besides. They and the
rivals live in an environment of their own, made by pip from tests/bench/compression/rivals.txt;
Ghostscript, qpdf and others are taken from the PATH, and left out by name where they are not there.

Sluice is run in two ways: a process for each file, as all rivals are, and "warm", one process for
all files, as a worker is. `compression/` beside this file has the parts, and in each the reasons.
"""

import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from tests.bench import rivals as packages
from tests.bench.compression import tables
from tests.bench.compression.evaluation import Viewers
from tests.bench.compression.measured import Measured
from tests.bench.compression.tools import LISTED, REFERENCE, RIVALS, WARM, Tool, ours, versions

LEVELS = ("lossless", "low", "medium", "high")
LARGE_TIMES = 10  # as long may a large file take
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _levels(_context: object, _option: object, said: str) -> list[str]:
    names = said.split(",")
    for name in names:
        if name not in LEVELS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(LEVELS)}")
    return names


def _rivals(_context: object, _option: object, said: str) -> list[str]:
    """Names of rivals; the first part of a name is good for all that have it."""
    found: list[str] = []
    for word in said.split(",") if said else RIVALS:
        names = [name for name in RIVALS if word in (name, name.partition("-")[0])]
        if not names and word != "none":
            raise click.BadParameter(f"{word!r} is none of {', '.join(RIVALS)}, none")
        found += names
    return found


@dataclass
class Bench:
    """The tools, what they and their outputs are run and seen with, and what was found."""

    tools: Mapping[str, Tool]
    environment: Path
    viewers: Viewers
    limit: float
    say: Callable[[str], None]
    parts: list[str] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)

    def measure(self, title: str, files: Sequence[Path], outputs: Path, limit: float) -> Measured:
        """Run all tools on files and look at what they wrote."""
        found = Measured(files, outputs / title)
        for name, tool in self.tools.items():
            self.say(f"{name}, {len(files)} files")
            found.run(name, tool, self.environment, limit)
        self.say("looking at all outputs")
        found.see(self.viewers)
        size = sum(file.stat().st_size for file in files) / 1e6
        opened = sum(seen[""]["opens"] for seen in found.seen.values())
        self.parts.append(f"{title}: {len(files)} files, {size:.1f} MB; {opened} can be opened.")
        self.parts += found.tables(seconds=limit > self.limit)
        self.kept[title] = found.as_json()
        return found

    def equal(self, found: Measured) -> None:
        """How many bytes Sluice needs to look as the reference does."""
        if REFERENCE not in self.tools:
            self.say(f"without --equal: {REFERENCE} is not there")
            return
        self.say("at the same similarity")
        equals = found.equals(self.viewers)
        title = RIVALS[REFERENCE].title
        self.kept["equal"] = [asdict(each) for each in equals]
        if equals:
            self.parts.append(f"Where Sluice looks as {title} does at 200 dpi, or just better:")
            self.parts.append(tables.equals(equals, title))

    def batch(self, files: Sequence[Path], count: int, level: str, quality: int) -> None:
        """How much of this machine the workers use for a batch."""
        from tests.bench.compression import batches  # of all of Sluice, so after what is timed

        self.say(f"a batch of {count} files")
        share = batches.measure(files, count, level, quality)
        self.kept["batch"] = asdict(share)
        self.parts.append(str(share))


def chosen(
    levels: Sequence[str], quality: int, names: Sequence[str], say: Callable[[str], None]
) -> dict[str, Tool]:
    """The tools that can be run, by name; say of the others how to get them."""
    found = {}
    for name in names:
        if missing := RIVALS[name].missing():
            say(f"without {name}: there is no {', '.join(missing)}; {RIVALS[name].get}")
        else:
            found[name] = RIVALS[name]
    for level in levels:
        for way in ("", WARM):
            found[f"sluice-{level}{way}"] = ours(level, quality, way)
    return found


def pdfs(folder: Path, pattern: str) -> list[Path]:
    """The PDFs of a folder whose name has the pattern."""
    found = [
        path for path in sorted(folder.resolve().glob("*.pdf")) if re.search(pattern, path.name)
    ]
    if not found:
        raise click.UsageError(f"{folder} has no PDF whose name has {pattern!r}")
    return found


@click.command()
@click.option("--corpus", required=True, type=FOLDER)
@click.option("--level", "levels", default=",".join(LEVELS), callback=_levels, show_default=True)
@click.option("--quality", default=80, show_default=True, help="image_quality, 1 to 100")
@click.option("--rivals", "names", default="", callback=_rivals, help="gs, qpdf, …, none; all")
@click.option("--filter", "pattern", default="", help="only files whose name has this expression")
@click.option("--equal", is_flag=True, help="also the bytes at Ghostscript's similarity; slow")
@click.option("--large", type=FOLDER, help="a folder of large files, for a table of their own")
@click.option("--batch", default=0, help="also a batch of so many files through a real stack")
@click.option("--limit", default=180.0, show_default=True, help="seconds that a file may take")
@click.option(
    "--rivals-env",
    type=click.Path(path_type=Path),
    default=Path("var/bench-compression"),
    show_default=True,
)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    corpus: Path,
    levels: list[str],
    quality: int,
    names: list[str],
    pattern: str,
    equal: bool,
    large: Path | None,
    batch: int,
    limit: float,
    rivals_env: Path,
    json_file: Path | None,
) -> None:
    """Measure how small PDFs become, beside other tools; print tables for GitHub."""
    for each in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(each, signal.default_int_handler)
    began, load = time.monotonic(), f"{os.getloadavg()[0]:.1f}"  # above 0.5, it was disturbed

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - began:7.0f} s  {line}", err=True)

    files, large_files = pdfs(corpus, pattern), pdfs(large, "") if large else []
    say("the rivals' environment")
    environment = packages.environment(rivals_env.resolve(), LISTED)
    tools = chosen(levels, quality, names, say)
    with (
        tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder,
        Viewers(environment / "bin/python") as viewers,
    ):
        bench = Bench(tools, environment, viewers, limit, say)
        found = bench.measure("corpus", files, Path(folder), limit)
        if equal:
            bench.equal(found)
        if large_files:
            bench.measure("large", large_files, Path(folder), limit * LARGE_TIMES)
        if batch:
            good = [file for file in files if found.seen[file.name][""]["opens"]]
            bench.batch(good, batch, levels[0], quality)
    said = {**versions([name for name in tools if name in RIVALS]), "load average before": load}
    command = " ".join(["scripts/bench compress", *sys.argv[1:]])
    numbers = ", ".join(f"{name} {version}" for name, version in said.items())
    click.echo("\n\n".join([*bench.parts, f"`{command}`; {numbers}."]))
    if json_file:
        text = json.dumps({"command": command, "versions": said, **bench.kept}, indent=1)
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    main()
