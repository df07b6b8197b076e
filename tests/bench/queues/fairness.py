"""Who waits behind whom: a flood of low jobs, endless high ones, one tenant's hundred thousand.

With the deployment's three workers: one slot for high, two for high and default, one for low.
"""

import statistics

from tests.bench.queues.beside import percentile
from tests.bench.queues.options import Options
from tests.bench.queues.report import Report
from tests.bench.queues.systems import SLUICE, SLUICE_CELERY, Places, Site
from tests.bench.queues.web import Web, ledger

WORKERS = {
    "high": ("high_priority", "1"),
    "default": ("high_priority,default", "2"),
    "low": ("low_priority", "1"),
}
PICK_UPS = 20
PAUSE_MS = 500
TENANTS = 5
TENANT_JOBS = 10  # of each, one a second


def measure(places: Places, options: Options, report: Report) -> None:
    """Measure Sluice on each database."""
    for number in range(options.rounds):
        for name in [each for each in SLUICE if each in options.systems]:
            for part in (_high_over_low, _low_under_high, _tenants):
                options.say(f"fairness: {part.__name__[1:]} on {name}, round {number + 1}")
                with places.site(name) as site:
                    part(site, name, options, report)


def _start(site: Site) -> Web:
    web = Web(site)
    web.start()
    return web


def _start_workers(site: Site) -> None:
    for worker, (queues, slots) in WORKERS.items():
        options = ("-Q", queues, "-c", slots, "-n", f"{worker}@%h")
        site.start(f"worker-{worker}", [*SLUICE_CELERY, "worker", *options])
    site.start("worker-beat", [*SLUICE_CELERY, "beat"])
    site.drive("pick-up-high", 1, 0)  # until high jobs are served
    site.drive("pick-up", 1, 0)


def _high_over_low(site: Site, name: str, options: Options, report: Report) -> None:
    """The time until a high job begins while a flood of low ones is worked off."""
    web = _start(site)
    ledger(site, "multiply", f"bench.nothing_low:{options.flood}:{web.sign_up().id}")
    _start_workers(site)
    waits = site.drive("pick-up-high", PICK_UPS, PAUSE_MS)["ms"]
    what = f"a high job's start over {options.flood:,} low ones"
    report.add("fairness", f"{what}, median", "ms", name, statistics.median(waits))
    report.add("fairness", f"{what}, maximum", "ms", name, max(waits))


def _low_under_high(site: Site, name: str, options: Options, report: Report) -> None:
    """The time until a low and a default job begin under a load of high ones that never ends."""
    web = _start(site)
    _start_workers(site)
    ledger(site, "multiply", f"bench.nothing_high:{options.flood}:{web.sign_up().id}")
    for title, kind in (("low", "bench.nothing_low"), ("default", "bench.nothing")):
        owner = web.sign_up().id
        ledger(site, "submit-for", kind, 1, owner)
        waits = ledger(site, "waits", options.patience_seconds, owner)["seconds"]
        seconds, note = _with_patience(waits, options)
        what = f"a {title} job's start under {options.flood:,} high ones"
        report.add("fairness", what, "s", name, seconds[0], note=note)


def _tenants(site: Site, name: str, options: Options, report: Report) -> None:
    """How long five tenants' jobs wait, alone and while another tenant has a flood queued."""
    web = _start(site)
    _start_workers(site)
    p95 = {}
    for when in ("alone", f"behind one's {options.flood:,}"):
        if p95:
            ledger(site, "multiply", f"bench.nothing:{options.flood}:{web.sign_up().id}")
        tenants = [web.sign_up().id for _ in range(TENANTS)]
        ledger(site, "submit-for", "bench.nothing", TENANT_JOBS, *tenants)
        waits = ledger(site, "waits", options.patience_seconds, *tenants)["seconds"]
        seconds, note = _with_patience(waits, options)
        p95[when] = percentile(seconds, 0.95)
        report.add("fairness", f"tenants' wait, 95%, {when}", "s", name, p95[when], note=note)
    alone, behind = p95.values()
    report.add("fairness", "tenants' 95% behind the flood ÷ alone", "", name, behind / alone)


def _with_patience(waits: list[float | None], options: Options) -> tuple[list[float], str]:
    """The waits, with those that had no end counted as the patience, and a note that says so."""
    endless = waits.count(None)
    seconds = [options.patience_seconds if wait is None else wait for wait in waits]
    note = f"{endless} of {len(waits)} NOT STARTED, counted as {options.patience_seconds:g} s"
    return seconds, note if endless else ""
