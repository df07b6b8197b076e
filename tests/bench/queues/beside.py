"""What is measured of every system: a drain, pick-ups on an idle system, submits in bulk."""

import statistics
import subprocess
from collections.abc import Callable

from tests.bench.queues.options import Options
from tests.bench.queues.report import Report
from tests.bench.queues.systems import Places, Site


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of all do not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def drain(site: Site, name: str, options: Options, report: Report) -> None:
    """Jobs are submitted while no worker runs; then the workers start. Jobs per second."""
    site.drive("fill", options.jobs)
    look_on = site.driver("drain", options.jobs)
    site.processes.start("drive-drain", look_on, output=subprocess.PIPE)
    site.start_workers()
    rate = site.processes.answer("drive-drain")["per_second"]
    report.add("drain", f"{options.jobs:,} jobs", "jobs/s", name, rate, more_is_better=True)


def pick_up(site: Site, name: str, options: Options, report: Report) -> None:
    """One job at a time on an idle system: from the submit's return to the job's first line."""
    site.start_workers()
    waits = site.drive("pick-up", options.pick_ups, options.pause_ms)["ms"]
    report.add("pick-up", "median", "ms", name, statistics.median(waits))
    for share in (0.95, 0.99):
        report.add("pick-up", f"{share:.0%}", "ms", name, percentile(waits, share))
    report.add("pick-up", "maximum", "ms", name, max(waits))


def bulk(site: Site, name: str, options: Options, report: Report) -> None:
    """Many jobs at once in the fastest documented way, and one after another; no worker runs."""
    for command, number, figure in (
        ("many", options.many, f"{options.many:,} at once"),
        ("one-by-one", options.singles, f"{options.singles:,} one by one"),
    ):
        seconds = site.drive(command, number)["seconds"]
        report.add("submit", figure, "jobs/s", name, number / seconds, more_is_better=True)


Measure = Callable[[Site, str, Options, Report], None]


def in_rounds(measure: Measure, places: Places, options: Options, report: Report) -> None:
    """Measure every system once a round, so that a disturbance meets all of them alike."""
    for number in range(options.rounds):
        for name in options.systems:
            options.say(f"{measure.__name__}: {name}, round {number + 1} of {options.rounds}")
            with places.site(name) as site:
                measure(site, name, options, report)
