"""What watchers on Server-Sent Events cost the other requests of one web process.

    scripts/bench watchers [--watchers 1000] [--seconds 20] [--rate 20] [--owners 1000]

One web process, a broker, a process that lets jobs begin and end at a steady rate, a process in
which all watchers are, and this one, which asks for a job again and again: first without
watchers, then with them, then without them again. In the end each watcher must have been told
of every event of its owner, in the ledger's order.
"""

import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import click
import httpx

from tests.integration.crowd import Crowd, Person, Web, serving

EVENTS_OF_A_JOB = 3  # it is submitted, begins, and ends
START = multiprocessing.get_context("spawn")


def produce(folder: Path, owner_ids: list[int], rate: float, is_over: Event) -> None:
    """Let jobs of the owners happen in turn."""
    web = Web(folder, "", "valkey", port=1)
    web.open_ledger()
    began, done = time.monotonic(), 0
    while not is_over.is_set():
        web.let_one_happen(owner_ids[done % len(owner_ids)])
        done += 1
        time.sleep(max(0.0, began + done * EVENTS_OF_A_JOB / rate - time.monotonic()))
    web.close_ledger()


def look_on(port: int, people: list[Person], count: int, pipe: Connection) -> None:
    """All watchers; say when they are there, and at last what each was told."""
    with Crowd(port) as crowd:
        of = []
        for number in range(count):
            person = people[number % len(people)]
            of.append((person.id, crowd.watch("/api/jobs/events", person.token)))
            crowd.until(lambda: True, "")
            if number % 20 == 19:
                crowd.until(
                    lambda: all(watcher.messages for _, watcher in of), "all are answered", 60
                )
        crowd.until(lambda: all(watcher.messages for _, watcher in of), "all are answered", 60)
        pipe.send("here")
        wanted: dict[int, str] = {}

        def is_done() -> bool:
            nonlocal wanted
            if not wanted and pipe.poll():
                wanted = pipe.recv()
            return bool(wanted) and all(
                owner_id not in wanted or watcher.last_id == wanted[owner_id]
                for owner_id, watcher in of
            )

        crowd.until(is_done, "all is told", 600)
        pipe.send([(owner_id, w.messages[0]["id"], w.events) for owner_id, w in of])


def ask(web: Web, token: str, job_id: str, seconds: float, pause: float) -> list[float]:
    """Ask for a job again and again; how many milliseconds each answer took."""
    took = []
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=web.url, headers=headers, timeout=30) as client:
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            began = time.perf_counter()
            assert client.get(f"/api/jobs/{job_id}").status_code == 200
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(pause)
    return sorted(took)


def say(what: str, took: list[float]) -> None:
    click.echo(
        f"{what}: median {statistics.median(took):.1f} ms,"
        f" 99 % under {took[int(0.99 * len(took))]:.1f} ms ({len(took)} requests)"
    )


def check(seen: list[tuple[int, str, list[str]]], happened: dict[int, list[str]]) -> int:
    """Each watcher was told of all that came after its beginning, in order; how much that was."""
    delivered = 0
    for owner_id, began, events in seen:
        all_of = happened.get(owner_id, [])
        after = all_of[all_of.index(began) + 1 :] if began in all_of else all_of
        assert events == after, f"owner {owner_id}: {len(events)} of {len(after)} events"
        delivered += len(events)
    return delivered


@click.command()
@click.option("--watchers", default=1000, show_default=True)
@click.option("--owners", default=1000, show_default=True, help="Of whose jobs they watch all.")
@click.option("--rate", default=20.0, show_default=True, help="Events a second, of all owners.")
@click.option("--seconds", default=20.0, show_default=True)
@click.option("--pause", default=0.005, show_default=True, help="Between two requests.")
def main(watchers: int, owners: int, rate: float, seconds: float, pause: float) -> None:
    """Measure requests beside watchers."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder, serving(Path(folder)) as web:
        run(web, watchers, owners, rate, seconds, pause)


def run(web: Web, watchers: int, owners: int, rate: float, seconds: float, pause: float) -> None:
    people = web.sign_up(owners)
    (other,) = web.sign_up()
    token = other.token
    job_id = str(web.let_one_happen(other.id))
    is_over = START.Event()
    producer = START.Process(
        target=produce, args=(web.folder, [person.id for person in people], rate, is_over)
    )
    producer.start()
    ask(web, token, job_id, 3, pause)
    say("without watchers", ask(web, token, job_id, seconds, pause))
    ours, theirs = START.Pipe()
    crowd = START.Process(target=look_on, args=(web.port, people, watchers, theirs))
    began = time.monotonic()
    crowd.start()
    assert ours.recv() == "here"
    click.echo(f"{watchers} watchers came within {time.monotonic() - began:.1f} s")
    time.sleep(3)
    before = web.processor_seconds()
    say(f"with {watchers} watchers", ask(web, token, job_id, seconds, pause))
    took = (web.processor_seconds() - before) / seconds
    click.echo(f"of a core, the web took {took:.2f}; it holds {web.memory_kib() // 1024} MiB")
    is_over.set()
    producer.join()
    happened = web.events()
    ours.send({owner: ids[-1] for owner, ids in happened.items()})
    seen: list[Any] = ours.recv()
    crowd.join()
    delivered = check(seen, happened)
    click.echo(f"each of {len(seen)} was told of all in order: {delivered} deliveries")
    say("without watchers again", ask(web, token, job_id, seconds, pause))


if __name__ == "__main__":
    main()
