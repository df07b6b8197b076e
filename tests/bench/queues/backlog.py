"""A ledger with a million queued jobs: lists, a claim, cancel-all-matching, memory."""

import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.bench.queues.options import Options
from tests.bench.queues.report import Report
from tests.bench.queues.systems import SLUICE, SLUICE_CELERY, Places, Site
from tests.bench.queues.web import Person, Web, ledger

TIMES = 10  # each list is asked for
CLAIMS = 50
SETTLE_SECONDS = 8.0  # steward and workers go round a few times before their memory is read
MOST = 0.9  # of all jobs are one owner's; nine others share the rest
OTHERS = 9
STILL_QUEUED = {"state": "PENDING"}
CANCEL_LOOK = 1.0  # seconds between two looks whether any is left
CANCEL_PATIENCE = 5  # times the patience with others


def measure(places: Places, options: Options, report: Report) -> None:
    """Measure Sluice on each database, once: what is slow here is slow each time."""
    for name in [each for each in SLUICE if each in options.systems]:
        with places.site(name) as site:
            _measure(site, name, options, report)


def _measure(site: Site, name: str, options: Options, report: Report) -> None:
    web = Web(site)
    web.start()
    people = [web.sign_up() for _ in range(1 + OTHERS)]
    started = datetime.now(UTC)
    options.say(f"backlog: {name}, empty")
    # One job, so that the same questions are asked of the empty ledger.
    ledger(site, "multiply", f"bench.nothing_low:1:{people[0].id}")
    _ask_all(people[0], started)
    _memory(site, name, "empty ledger", report)
    options.say(f"backlog: {name}, inserting {options.backlog:,}")
    _insert(site, people, options.backlog)
    options.say(f"backlog: {name}, lists")
    for title, took in _ask_all(people[0], started).items():
        note = f"maximum {max(took):.0f} ms"
        report.add("backlog", f"list {title}", "ms", name, statistics.median(took), note=note)
    took = ledger(site, "claim", CLAIMS)["ms"]
    note = f"maximum {max(took):.0f} ms"
    report.add("backlog", "claim", "ms", name, statistics.median(took), note=note)
    _memory(site, name, "backlog", report)
    options.say(f"backlog: {name}, cancelling")
    site.start("worker-1", [*SLUICE_CELERY, "beat"])
    _cancel_all(people[0], name, options, report)


def _insert(site: Site, people: Sequence[Person], number: int) -> None:
    """Jobs of two kinds, each in its queue, most of them of one owner."""
    groups = []
    for place, person in enumerate(people):
        share = MOST if place == 0 else (1 - MOST) / OTHERS
        for kind, part in (("bench.nothing", 0.7), ("bench.nothing_low", 0.3)):
            groups.append(f"{kind}:{int(number * share * part)}:{person.id}")
    ledger(site, "multiply", *groups)


def _questions(started: datetime) -> dict[str, dict[str, Any]]:
    """Each filter alone, matching much, little and nothing; and together."""
    ago = {"since": (started - timedelta(minutes=30)).isoformat()}
    later = {"since": (started + timedelta(days=1)).isoformat()}
    return {
        "all": {},
        "state=PENDING": {"state": "PENDING"},
        "state=SUCCESS, no match": {"state": "SUCCESS"},
        "kind": {"kind": "bench.nothing_low"},
        "kind, no match": {"kind": "bench.no_such"},
        "queue=low_priority": {"queue": "low_priority"},
        "queue=high_priority, no match": {"queue": "high_priority"},
        "q, all match": {"q": "invoice"},
        "q, some match": {"q": "7777"},
        "q, no match": {"q": "no such label"},
        "since": ago,
        "since, no match": later,
        "state, kind, queue, q, since": {
            "state": "PENDING",
            "kind": "bench.nothing",
            "queue": "default",
            "q": "77",
            **ago,
        },
        "state, kind, queue, q, since, no match": {
            "state": "PENDING",
            "kind": "bench.nothing",
            "queue": "default",
            "q": "no such label",
            **ago,
        },
        "kind and another kind's queue, no match": {
            "kind": "bench.nothing",
            "queue": "low_priority",
        },
        "q, no match, 200 a page": {"q": "no such label", "limit": 200},
    }


def _ask_all(person: Person, started: datetime) -> dict[str, list[float]]:
    """The milliseconds of each list, asked several times; then of the pages that follow."""
    found = {}
    for title, query in _questions(started).items():
        found[title] = [person.get("/api/jobs", **query).ms for _ in range(TIMES)]
    for title, query in (("next pages", {}), ("next pages of q", {"q": "77"})):
        took, cursor = [], person.get("/api/jobs", **query).content["next_cursor"]
        while cursor and len(took) < TIMES:
            answer = person.get("/api/jobs", **query, cursor=cursor)
            took.append(answer.ms)
            cursor = answer.content["next_cursor"]
        found[title] = took or [0.0]
    return found


def _memory(site: Site, name: str, when: str, report: Report) -> None:
    """The memory of the web and the workers, these started for it and at work for a while."""
    site.start_workers()
    site.drive("pick-up-high", 1, 0)  # until they serve; high jobs go before the backlog
    time.sleep(SETTLE_SECONDS)
    for program, title in (("web", "web"), ("worker-0", "worker"), ("worker-1", "beat")):
        mib = site.processes.proportional_bytes(program) / 2**20
        report.add("backlog", f"memory of {title}, {when}", "MiB", name, mib)
    site.processes.stop("worker-0", "worker-1")


def _cancel_all(person: Person, name: str, options: Options, report: Report) -> None:
    """Cancel all that match by one request; the steward does what that leaves."""
    most = CANCEL_PATIENCE * options.patience_seconds
    asking = Person(person.address, person.token, seconds=options.patience_seconds)
    started = time.monotonic()
    answer = asking.ask("POST", "/api/jobs/bulk", {"action": "cancel", "filter": STILL_QUEUED})
    if answer.status != 200:
        raise RuntimeError(f"refused: {answer.status} {str(answer.content)[:80]}")
    note = f"{answer.content['done']:,} of {answer.content['matched']:,} by then"
    report.add("backlog", "cancel all that match, answer", "s", name, answer.ms / 1000, note=note)
    note = ""
    while person.get("/api/jobs", **STILL_QUEUED).content["jobs"]:
        if time.monotonic() - started > most:
            note = "NOT DONE"
            break
        time.sleep(CANCEL_LOOK)
    seconds = time.monotonic() - started
    report.add("backlog", "cancel all that match, end", "s", name, seconds, note=note)
