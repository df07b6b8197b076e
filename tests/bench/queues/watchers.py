"""A thousand watchers of one web process, and what others feel of them.

Jobs that fail eleven times and then succeed run on two worker processes; so each has 25 events
in about twenty seconds. Half of the watchers follow one job each, the others all jobs of their
owner. They begin while every job is queued and no worker runs, so each of them must be told every
event after the first, in order: the ledger says which. Beside them one asks for a job twenty times
a second. The same is done once without watchers.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from tests.bench.queues.beside import percentile
from tests.bench.queues.options import Options
from tests.bench.queues.processes import Broken
from tests.bench.queues.report import Report
from tests.bench.queues.systems import HERE, SLUICE, Places, Site
from tests.bench.queues.web import Person, Web, ledger

OWNERS = 4
PER_SECOND = 20
ASKED_SECONDS = 20
OPEN_SECONDS = 120.0
LAST_SECONDS = 5.0  # for the last events to come; a stream looks every two seconds
# As the contract names the ledger's states; a job that has begun never looks as if it had not.
SHOWN = {"queued": "PENDING", "running": "PROGRESS", "retrying": "RETRY", "succeeded": "SUCCESS"}


def measure(places: Places, options: Options, report: Report) -> None:
    """Measure Sluice on each database, with and without watchers in turns."""
    room = {"MAX_STREAMS": str(options.watchers + 50), "WEB_THREADS": str(options.watchers + 114)}
    for number in range(options.rounds):
        for name in [each for each in SLUICE if each in options.systems]:
            p99 = []
            for watchers in (0, options.watchers):
                options.say(f"watchers: {watchers} on {name}, round {number + 1}")
                with places.site(name, **room) as site:
                    p99.append(_measure(site, name, watchers, options, report))
            report.add("watchers", "others' 99% with ÷ without", "", name, p99[1] / p99[0])


def _measure(site: Site, name: str, watchers: int, options: Options, report: Report) -> float:
    """Measure once; return the 99 % of the other requests, in milliseconds."""
    web = Web(site)
    web.start()
    owners = [web.sign_up() for _ in range(OWNERS)]
    each = max(1, options.watched_jobs // OWNERS)
    ledger(site, "multiply", *(f"bench.eventful:{each}:{owner.id}" for owner in owners))
    jobs = {owner.id: _jobs(owner) for owner in owners}
    if watchers:
        _watch(site, web, owners, jobs, watchers)
    site.start_workers()
    address = [*map(str, web.address), owners[0].token, ASKED_SECONDS, PER_SECOND]
    command = [site.bin / "python", "-m", f"{HERE}.asker", *map(str, address)]
    ms = site.processes.ask("asker", [*command, *jobs[owners[0].id]])["ms"]
    what = f"with {watchers:,} watchers" if watchers else "without watchers"
    note = f"{len(ms)} requests"
    for share in (0.5, 0.99):
        took = percentile(ms, share)
        report.add("watchers", f"other requests' {share:.0%} {what}", "ms", name, took, note=note)
    if watchers:
        site.drive("drain", len(jobs) * each)
        time.sleep(LAST_SECONDS)
        streams = site.processes.finish("watchers")
        _judge(streams, ledger(site, "events"), jobs, name, report)
    return percentile(ms, 0.99)


def _jobs(owner: Person) -> list[str]:
    return [job["id"] for job in owner.get("/api/jobs", limit=200).content["jobs"]]


def _watch(
    site: Site, web: Web, owners: Sequence[Person], jobs: dict[int, list[str]], number: int
) -> None:
    """Start the watchers; return once every stream has begun."""
    plan = []
    for place in range(number):
        owner = owners[place % OWNERS]
        mine = jobs[owner.id]
        one = f"/api/jobs/{mine[place // OWNERS // 2 % len(mine)]}/events"
        path = one if place // OWNERS % 2 else "/api/jobs/events"
        plan.append({"path": path, "token": owner.token})
    (site.folder / "plan").write_text(json.dumps(plan))
    command = [site.bin / "python", "-m", f"{HERE}.sse_client", *map(str, web.address)]
    site.processes.start("watchers", [*command, "plan"], output=subprocess.PIPE)
    site.processes.wait_for_line("watchers", "open", OPEN_SECONDS)


def _judge(
    streams: Sequence[dict[str, Any]],
    events: dict[str, list[str]],
    jobs: dict[int, list[str]],
    name: str,
    report: Report,
) -> None:
    """Compare what each watcher was told with the ledger, job by job."""
    missing = doubled = late = refused = told = 0
    lags: list[float] = []
    owners = list(jobs)  # they took turns in the plan
    truth = {job: [_as_shown(event) for event in said][1:] for job, said in events.items()}
    for place, stream in enumerate(streams):
        if stream["status"] != 200:
            refused += 1
            continue
        lags += stream["lag_ms"]
        one = stream["path"].split("/")[3]
        for job in [one] if one in truth else jobs[owners[place % OWNERS]]:
            got = [state for of, state in stream["states"] if of == job]
            told += len(got)
            missing += len(set(truth[job]) - set(got))
            doubled += len(got) - len(set(got))
            late += got != [state for state in truth[job] if state in got]
    if not lags:
        raise Broken(f"no stream was told anything; the first: {streams[0]}")
    wrong = f"{refused} refused, {missing} missing, {doubled} doubled, {late} out of order"
    report.add("watchers", "events told", "", name, told, more_is_better=True, note=wrong)
    report.add("watchers", "an event's lag, median", "ms", name, statistics.median(lags))
    report.add("watchers", "an event's lag, 99%", "ms", name, percentile(lags, 0.99))


def _as_shown(event: str) -> str:
    state, attempt = event.split()
    begun = state == "queued" and attempt != "0"
    return f"{'PROGRESS' if begun else SHOWN.get(state, state.upper())} {attempt}"
