"""Many watchers of one web process: each is told of everything, in order, and holds up nobody."""

import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydantic_settings import BaseSettings

from backend.jobs.duties import clean_up
from tests.integration.conftest import EMBEDDED, OUTGROWN
from tests.integration.crowd import Crowd, Person, Watcher, Web, serving
from tests.integration.stack import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ALL = "/api/jobs/events"


class Size(BaseSettings):
    """How many watch; more than the web process has threads."""

    watchers: int = 200


@pytest.fixture(
    scope="module",
    params=[
        EMBEDDED,
        pytest.param(OUTGROWN, marks=pytest.mark.needs("initdb", "pg_ctl", "redis-server")),
    ],
)
def web(request: pytest.FixtureRequest) -> Iterator[Web]:
    choice: dict[str, str] = {}
    if request.param == OUTGROWN:
        url = request.getfixturevalue("postgresql").fresh_database()
        choice = {"database_url": url, "broker": "redis-server"}
    # Not pytest's own folder: the address of a unix socket has room for a hundred characters.
    with (
        tempfile.TemporaryDirectory(prefix="sluice-") as folder,
        serving(Path(folder), **choice) as web,
    ):
        yield web


@pytest.fixture
def crowd(web: Web) -> Iterator[Crowd]:
    with Crowd(web.port) as crowd:
        yield crowd


def gather(crowd: Crowd, people: list[Person], count: int) -> dict[Watcher, Person]:
    """So many who watch all jobs of these people in turn, and have been told how it stands."""
    found = {}
    for number in range(count):
        person = people[number % len(people)]
        found[crowd.watch(ALL, person.token)] = person
        if number % 20 == 19:  # a server's queue of connections is short
            crowd.until(lambda: all(watcher.messages for watcher in found), "they are answered")
    crowd.until(lambda: all(watcher.messages for watcher in found), "all are answered")
    return found


def ids_after(web: Web, person: Person, place: str) -> list[str]:
    """The ids of the person's events after one of them, or of all if it is none of them."""
    ids = web.events().get(person.id, [])
    return ids[ids.index(place) + 1 :] if place in ids else ids


def test_each_of_many_is_told_of_every_event_in_order(web: Web, crowd: Crowd) -> None:
    people = web.sign_up(20)
    watchers = gather(crowd, people, Size().watchers)

    with ThreadPoolExecutor(1) as pool:
        jobs = {
            person.id: pool.submit(lambda each=person: web.let_one_happen(each.id))
            for person in [*people, *people]
        }
        asked = httpx.get(f"{web.url}/api/jobs", headers=bearer(people[0]))
        crowd.until(
            lambda: all(len(watcher.events) >= 6 for watcher in watchers), "two jobs are told", 60
        )

    assert asked.status_code == 200  # though more watch than there are threads
    for watcher, person in watchers.items():
        assert watcher.events == ids_after(web, person, watcher.messages[0]["id"])
        assert watcher.knows(jobs[person.id].result())
        assert not watcher.is_over


def test_many_who_follow_one_job_are_all_told_of_its_end(web: Web, crowd: Crowd) -> None:
    (ann,) = web.sign_up()
    job_id = web.submit(clean_up, owner_id=ann.id)
    watchers = [crowd.watch(f"/api/jobs/{job_id}/events", ann.token) for _ in range(100)]
    crowd.until(lambda: all(watcher.is_told("job") for watcher in watchers), "all see it")

    web.let_run()
    crowd.until(lambda: all(watcher.is_over for watcher in watchers), "all streams end")

    for watcher in watchers:
        assert [event["state"] for event in watcher.told("state")] == ["PROGRESS", "SUCCESS"]
        assert watcher.told("job")[-1]["state"] == "SUCCESS"
        assert watcher.messages[-1]["event"] == "end"


@pytest.mark.row(29)
def test_those_who_do_not_read_hold_up_nobody_and_miss_nothing(web: Web, crowd: Crowd) -> None:
    (ann,) = web.sign_up()
    reader = crowd.watch(ALL, ann.token)
    sleepers = [crowd.watch(ALL, ann.token, reads=False, room=65536) for _ in range(50)]
    crowd.until(lambda: reader.messages, "the reader is there")
    before = web.memory_kib()

    jobs, long = 100, "It is broken. " * 200
    with ThreadPoolExecutor(1) as pool:
        done = [pool.submit(web.let_one_happen, ann.id, long) for _ in range(jobs)]
        crowd.until(lambda: len(reader.events) == 3 * jobs, "the reader is told of all", 90)
        assert all(each.done() for each in done)
    sent = sum(len("".join(message.values())) for message in reader.messages)
    grown = web.memory_kib() - before
    assert httpx.get(f"{web.url}/api/jobs", headers=bearer(ann)).status_code == 200

    assert sent > 600_000  # for each, far more than the kernel takes for them
    assert grown * 1024 < 50 * sent / 2  # nor is it kept for them here
    for sleeper in sleepers:
        crowd.resume(sleeper)
    crowd.until(lambda: all(len(each.events) >= 3 * jobs for each in sleepers), "they catch up")
    for sleeper in sleepers:
        assert sleeper.events == reader.events


@pytest.mark.row(29)
def test_who_was_cut_off_goes_on_after_the_last_event(web: Web, crowd: Crowd) -> None:
    people = web.sign_up(5)
    first = gather(crowd, people, 50)
    with ThreadPoolExecutor(1) as pool:  # jobs happen all the while
        happen = [pool.submit(web.let_one_happen, people[n % 5].id) for n in range(60)]
        crowd.until(lambda: all(len(each.events) > 2 for each in first), "all are told a little")
        for watcher in first:
            crowd.leave(watcher)
        until(lambda: sum(each.done() for each in happen) > 40, "more happens meanwhile")
        again = {
            watcher: crowd.watch(ALL, person.token, watcher.last_id)
            for watcher, person in first.items()
        }
    last = {person.id: web.events()[person.id][-1] for person in people}
    crowd.until(
        lambda: all(
            each.messages and each.last_id == last[first[watcher].id]
            for watcher, each in again.items()
        ),
        "all are told of the rest",
    )

    for watcher, person in first.items():
        told = watcher.events + again[watcher].events
        assert told == ids_after(web, person, watcher.messages[0]["id"])


def test_streams_close_when_their_tokens_expire_and_only_they(web: Web, crowd: Crowd) -> None:
    ann, bob = web.sign_up(2)
    job_id = web.submit(clean_up, owner_id=ann.id)
    path = f"/api/jobs/{job_id}/events"
    staying = crowd.watch(path, ann.token)
    expiring = [crowd.watch(path, web.token(ann, seconds=4)) for _ in range(50)]
    crowd.until(lambda: all(each.is_told("job") for each in expiring), "all see the job")
    assert not any(each.is_over for each in expiring)

    crowd.until(lambda: all(each.is_over for each in expiring), "they are closed", 10)
    strange = crowd.watch(path, bob.token)
    crowd.until(lambda: strange.is_over or strange.head, "another's job is answered")

    assert all(each.messages[-1]["event"] == "end" for each in expiring)
    assert strange.status == 404
    assert not staying.is_over
    web.let_run()
    crowd.until(lambda: staying.is_over, "the other is told of the end")
    assert staying.told("job")[-1]["state"] == "SUCCESS"


def test_a_server_that_is_renewed_lets_its_watchers_go_on_elsewhere(web: Web, crowd: Crowd) -> None:
    (ann,) = web.sign_up()
    first = gather(crowd, [ann], 30)
    web.let_one_happen(ann.id)
    crowd.until(lambda: all(len(each.events) == 3 for each in first), "all are told")
    old = web.web_processes()

    web.programs["web"].send_signal(signal.SIGHUP)
    crowd.until(lambda: all(each.is_over for each in first), "the old process lets them go")
    web.let_one_happen(ann.id)
    again = [crowd.watch(ALL, ann.token, each.last_id) for each in first]
    crowd.until(lambda: all(len(each.events) >= 3 for each in again), "the new one tells the rest")

    for before, after in zip(first, again, strict=True):
        assert before.events + after.events == web.events()[ann.id]
    until(lambda: not set(old) & set(web.web_processes()), "the old process ends")


def test_news_is_told_at_once(web: Web, crowd: Crowd) -> None:
    (ann,) = web.sign_up()
    watcher = crowd.watch(ALL, ann.token)
    waits = []
    for number in range(5):
        crowd.until(lambda: watcher.messages, "the watcher is there")
        count = 3 * (number + 1)
        web.let_one_happen(ann.id)
        began = time.monotonic()
        crowd.until(lambda wanted=count: len(watcher.events) == wanted, "it is told")
        waits.append(time.monotonic() - began)
    assert sorted(waits)[2] < 1.0  # and not by the look every two seconds


def bearer(person: Person) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}"}
