"""How fast jobs are carried, beside other systems on the same machine in the same run.

    scripts/bench jobs [--only drain] [--systems sluice-postgresql,procrastinate] [--jobs 2000]

Jobs do nothing, and there are two worker processes: of Sluice and Celery one worker with two
prefork processes, of the others two processes of one job at a time. Every run of every system
has a broker, a database and a folder of its own, thrown away afterwards: Redis with its
append-only file written every second, PostgreSQL with its defaults (a commit is on disk),
SQLite as Sluice sets it (likewise). The rivals live in an environment of their own, made by pip
from tests/bench/rivals.txt. `queues/` beside this file has the parts, and in each the reasons.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click

from tests.bench import rivals
from tests.bench.queues import backlog, beside, fairness, watchers
from tests.bench.queues.options import Options
from tests.bench.queues.processes import Broken
from tests.bench.queues.report import Report
from tests.bench.queues.servers import PostgreSQL
from tests.bench.queues.systems import RIVALS, SLUICE, SYSTEMS, Places, versions

MEASURES: Mapping[str, Callable[[Places, Options, Report], None]] = {
    "drain": partial(beside.in_rounds, beside.drain),
    "pick-up": partial(beside.in_rounds, beside.pick_up),
    "submit": partial(beside.in_rounds, beside.bulk),
    "backlog": backlog.measure,
    "watchers": watchers.measure,
    "fairness": fairness.measure,
}


def _names(known: Mapping[str, object]) -> Callable[..., list[str]]:
    def parse(_context: object, _option: object, said: str) -> list[str]:
        names = said.split(",") if said else list(known)
        for name in names:
            if name not in known:
                raise click.BadParameter(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _variables(_context: object, _option: object, said: tuple[str, ...]) -> dict[str, str]:
    for each in said:
        if "=" not in each:
            raise click.BadParameter(f"{each!r} is no variable; it reads like MAX_STREAMS=2000")
    return dict(each.split("=", 1) for each in said)


@click.command()
@click.option("--only", default="", callback=_names(MEASURES), help="drain, pick-up, …; all")
@click.option("--systems", default="", callback=_names(SYSTEMS), help="huey, rq, …; all")
@click.option("--rounds", default=3, show_default=True, help="of each measure, in turns")
@click.option("--jobs", default=5000, show_default=True, help="in a drain")
@click.option("--pick-ups", default=200, show_default=True)
@click.option("--pause", "pause_ms", default=100, show_default=True, help="ms between pick-ups")
@click.option("--many", default=20_000, show_default=True, help="jobs that are submitted at once")
@click.option("--singles", default=2000, show_default=True, help="jobs submitted one by one")
@click.option("--backlog", default=1_000_000, show_default=True, help="queued jobs")
@click.option("--watchers", default=1000, show_default=True)
@click.option("--watched-jobs", default=20, show_default=True)
@click.option("--flood", default=100_000, show_default=True, help="jobs that others wait behind")
@click.option("--patience", "patience_seconds", default=60.0, show_default=True, help="seconds")
@click.option("--env", "variables", multiple=True, callback=_variables, help="Sluice's settings")
@click.option(
    "--rivals-env",
    type=click.Path(path_type=Path),
    default=Path("var/bench-rivals"),
    show_default=True,
)
@click.option("--markdown", is_flag=True, help="print the table for GitHub")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    only: list[str],
    systems: list[str],
    variables: dict[str, str],
    rivals_env: Path,
    markdown: bool,
    json_file: Path | None,
    **numbers: float,
) -> None:
    """Measure how fast jobs are carried, beside other systems."""
    for each in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(each, signal.default_int_handler)
    began = time.monotonic()
    load = {"load average before": f"{os.getloadavg()[0]:.1f}"}  # above 0.5, it was disturbed

    def say(line: str) -> None:
        click.echo(f"{time.monotonic() - began:7.0f} s  {line}", err=True)

    options = Options(systems=systems, say=say, **numbers)  # type: ignore[arg-type]
    report = Report(next((name for name in SLUICE if name in systems), systems[0]))
    status = 0
    try:
        with ExitStack() as ending:
            if any(SYSTEMS[name].package for name in systems):
                say("the rivals' environment")
                rivals.environment(rivals_env.resolve(), RIVALS)
            places = Places(rivals_env.resolve(), PostgreSQL(ending), variables)
            for name in only:
                try:
                    MEASURES[name](places, options, report)
                except Broken as error:  # the other measures go on
                    say(f"{name} is not complete: {error}")
                    status = 1
    except KeyboardInterrupt:
        say("interrupted; this was measured before:")
        status = 130
    command = " ".join(["scripts/bench jobs", *sys.argv[1:]])
    if markdown:
        click.echo(report.markdown(versions(systems) | load, command))
    else:
        report.show()
    if json_file:
        text = json.dumps(report.as_json(versions(systems) | load, command), indent=1)
        json_file.write_text(text + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
