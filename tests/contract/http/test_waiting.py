"""Waiting for a job: the ETag, the long poll and the event streams, on the ledger alone."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from werkzeug.test import TestResponse

from backend.clock import utc_now
from backend.db import db
from backend.jobs import streams
from backend.jobs.live import Hub, Watcher
from tests.contract.http.conftest import OpenService
from tests.contract.http.service import (
    SECRET,
    Caller,
    Server,
    Service,
    Worker,
    assert_problem,
    small_pdf,
)

NEVER = 60.0  # seconds: longer than any test waits
SOON = 20.0  # seconds in which what was waited for has come on any machine
PDF = small_pdf()


@dataclass
class LocalNews:
    """Spreads news as Redis would: so that a wait that ends was woken, and did not run out."""

    hub: Hub

    def announce(self, news: dict[str, Any]) -> None:
        self.hub._spread(news)


@pytest.fixture
def news(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """News is heard, and the ledger is not looked at without any."""
    extensions = service.app.extensions
    extensions["sluice.announcer"] = LocalNews(extensions["sluice.hub"])
    monkeypatch.setattr(streams, "LOOK_SECONDS", NEVER)
    monkeypatch.setattr(streams, "PAUSE_SECONDS", 0.0)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once somebody waits."""
    begun, wait = threading.Event(), Watcher.wait

    def note(watcher: Watcher, seconds: float) -> bool:
        begun.set()
        return wait(watcher, seconds)

    monkeypatch.setattr(Watcher, "wait", note)
    return begun


def submit(caller: Caller) -> str:
    return str(caller.compress(PDF, PDF).json["job_id"])


def paths_of(job_id: str) -> list[str]:
    return [f"/api/jobs/{job_id}", f"/api/compress/jobs/{job_id}"]


def cancel(caller: Caller, job_id: str) -> None:
    assert caller.post(f"/api/jobs/{job_id}/cancel").status_code == 200


def retry(caller: Caller, job_id: str) -> None:
    assert caller.post(f"/api/jobs/{job_id}/retry").status_code == 202


# ---------------------------------------------------------------- the ETag


def test_what_was_seen_is_not_sent_again_until_it_changes(ann: Caller) -> None:
    job_id = submit(ann)
    for path in paths_of(job_id):
        first = ann.get(path)
        etag = first.headers["ETag"]
        assert etag.startswith('W/"')
        for sent in (etag, etag.removeprefix("W/"), f'"x", {etag}', "*"):
            answer = ann.get(path, headers={"If-None-Match": sent})
            assert (answer.status_code, answer.data) == (304, b""), sent
            assert answer.headers["ETag"] == etag
        for sent in ('"x"', etag[:-3] + '"', "nonsense"):
            assert ann.get(path, headers={"If-None-Match": sent}).json == first.json
    before = {path: ann.get(path).headers["ETag"] for path in paths_of(job_id)}
    cancel(ann, job_id)
    for path, etag in before.items():
        answer = ann.get(path, headers={"If-None-Match": etag})
        assert (answer.status_code, answer.json["status"]) == (200, "cancelled")


# ---------------------------------------------------------------- the long poll


@contextmanager
def asking(caller: Caller, path: str, **sent: Any) -> Iterator[Future[TestResponse]]:
    """Ask in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(caller.get, path, **sent)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("seen", [False, True])
def test_a_wait_ends_as_soon_as_the_job_changes(
    ann: Caller, news: None, waiting: threading.Event, number: int, seen: bool
) -> None:
    job_id = submit(ann)
    path = paths_of(job_id)[number]
    headers = {"If-None-Match": ann.get(path).headers["ETag"]} if seen else {}
    with asking(ann, f"{path}?wait=30", headers=headers) as asked:
        assert waiting.wait(SOON)
        assert not asked.done()
        cancel(ann, job_id)
        answer = asked.result(SOON)
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")


def test_a_wait_without_news_looks_at_the_ledger(
    ann: Caller, waiting: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOOK_SECONDS", 0.01)
    job_id = submit(ann)
    with asking(ann, f"/api/jobs/{job_id}?wait=30") as asked:
        assert waiting.wait(SOON)
        cancel(ann, job_id)
        assert asked.result(SOON).json["status"] == "cancelled"


def test_a_wait_holds_no_connection_to_the_database(
    service: Service, ann: Caller, news: None, waiting: threading.Event
) -> None:
    job_id = submit(ann)
    with asking(ann, f"/api/jobs/{job_id}?wait=30") as asked:
        assert waiting.wait(SOON)
        assert connections(service) == 0
        cancel(ann, job_id)
        asked.result(SOON)
    assert connections(service) == 0


def connections(service: Service) -> int:
    with service.app.app_context():
        return int(db.engine.pool.checkedout())  # type: ignore[attr-defined]


def test_of_what_was_not_seen_nobody_waits_for_more(ann: Caller, news: None) -> None:
    job_id = submit(ann)
    for path in paths_of(job_id):
        answer = ann.get(f"{path}?wait=30", headers={"If-None-Match": '"an earlier one"'})
        assert (answer.status_code, answer.json["status"]) == (200, "processing")


def test_of_what_has_ended_nobody_waits_for_more(ann: Caller, news: None) -> None:
    job_id = submit(ann)
    cancel(ann, job_id)
    for path in paths_of(job_id):
        answer = ann.get(f"{path}?wait=30")
        assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
        seen = {"If-None-Match": answer.headers["ETag"]}
        assert ann.get(f"{path}?wait=30", headers=seen).status_code == 304


def test_a_wait_that_runs_out_says_how_the_job_is(ann: Caller, news: None) -> None:
    for path in paths_of(submit(ann)):
        answer = ann.get(f"{path}?wait=0.01")
        assert (answer.status_code, answer.json["status"]) == (200, "processing")
        seen = {"If-None-Match": answer.headers["ETag"]}
        assert ann.get(f"{path}?wait=0.01", headers=seen).status_code == 304


def test_a_wait_for_what_is_removed_meanwhile_finds_nothing(
    ann: Caller, news: None, waiting: threading.Event, service: Service
) -> None:
    job_id = submit(ann)
    hub: Hub = service.app.extensions["sluice.hub"]
    with asking(ann, f"/api/jobs/{job_id}?wait=30") as asked:
        assert waiting.wait(SOON)
        service.app.extensions["sluice.announcer"] = LocalNews(Hub("", 1))  # nothing is heard …
        cancel(ann, job_id)
        assert ann.delete(f"/api/jobs/{job_id}").status_code == 204
        LocalNews(hub).announce({"owner_id": ann.id, "job_id": job_id.replace("-", "")})
        assert_problem(asked.result(SOON), 404)  # … until it is too late


# ---------------------------------------------------------------- event streams


@dataclass(frozen=True)
class Told:
    """One message of a stream."""

    event: str
    content: Any
    id: int | None

    @property
    def state(self) -> str:
        return str(self.content["state"])


class Stream:
    """An event stream, read message by message."""

    def __init__(self, answer: TestResponse) -> None:
        assert answer.status_code == 200, answer.text
        self.answer = answer
        self.messages = messages(iter(answer.response))
        self.last_id = -1

    def __next__(self) -> Told:
        told = next(self.messages)
        self.last_id = told.id if told.id is not None else self.last_id
        return told

    def __iter__(self) -> Iterator[Told]:
        return self

    def close(self) -> None:
        self.answer.close()


def messages(chunks: Iterator[Any]) -> Iterator[Told]:
    """The messages as a browser would read them (WHATWG HTML, section 9.2.6)."""
    unread = ""
    for chunk in chunks:
        unread += chunk if isinstance(chunk, str) else chunk.decode()
        *blocks, unread = unread.split("\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.split("\n") if line[0] != ":")
            event_id = int(fields["id"]) if "id" in fields else None
            content = json.loads(fields["data"]) if "data" in fields else None
            yield Told(fields.get("event", ""), content, event_id)
    assert unread == ""


def follow(caller: Caller, path: str, last_id: int | None = None) -> Stream:
    headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
    return Stream(caller.get(path, headers=headers, buffered=False))


def events_of(job_id: str) -> str:
    return f"/api/jobs/{job_id}/events"


def test_a_stream_tells_of_a_job_to_its_end(ann: Caller, news: None) -> None:
    job_id = submit(ann)
    with closing(follow(ann, events_of(job_id))) as stream:
        headers = stream.answer.headers
        assert headers["Content-Type"].startswith("text/event-stream")
        assert (headers["Cache-Control"], headers["X-Accel-Buffering"]) == ("no-store", "no")
        beginning = next(stream)
        assert (beginning.event, beginning.content) == ("", None)
        first = next(stream)
        assert (first.event, first.state, first.content["id"]) == ("job", "PROGRESS", job_id)
        cancel(ann, job_id)
        told = [*stream]
    assert [one.event for one in told] == ["state", "state", "job", "end"]
    assert [one.state for one in told[:3]] == ["cancelling", "cancelled", "REVOKED"]
    assert set(told[0].content) == {"job_id", "state", "attempt", "note", "at"}
    assert told[2].content.items() >= {"id": job_id, "task_id": job_id, "percent": 0}.items()
    ids = [beginning.id, told[0].id, told[1].id]
    assert ids == sorted({*ids})
    assert told[2].id is None


def test_a_stream_shows_progress_while_a_job_runs(
    service: Service, ann: Caller, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "LOOK_SECONDS", 0.02)
    job_id = submit(ann)
    with closing(follow(ann, events_of(job_id))) as stream:
        next(stream)
        worker.start(service)
        told = [*stream]
    worker.finish()
    states = [one.state for one in told if one.event == "state"]
    assert states == ["queued", "running", "succeeded"]
    jobs = [one.content for one in told if one.event == "job"]
    percents = [job["percent"] for job in jobs]
    assert percents == sorted(percents)
    assert (percents[-1], jobs[-1]["state"]) == (100, "SUCCESS")
    assert all(job["percent"] < 100 for job in jobs[:-1])


def test_a_stream_that_broke_off_is_resumed_without_losing_a_change(
    ann: Caller, news: None
) -> None:
    job_id = submit(ann)
    with closing(follow(ann, events_of(job_id))) as stream:
        start = next(stream).id
    for _ in range(3):
        cancel(ann, job_id)
        retry(ann, job_id)
    cancel(ann, job_id)
    with closing(follow(ann, events_of(job_id), start)) as stream:
        all_told = [one for one in stream if one.event == "state"]
    assert [one.state for one in all_told].count("cancelled") == 4
    for number, one in enumerate(all_told[:-1]):
        with closing(follow(ann, events_of(job_id), one.id)) as stream:
            rest = [*stream]
        assert [again for again in rest if again.event == "state"] == all_told[number + 1 :]
        assert rest[-1].event == "end"
        assert rest[-2].state == "REVOKED"


def test_more_than_fits_into_one_message_is_told_all_the_same(
    ann: Caller, news: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "EVENTS_AT_ONCE", 2)
    job_id = submit(ann)
    cancel(ann, job_id)
    retry(ann, job_id)
    cancel(ann, job_id)
    with closing(follow(ann, events_of(job_id), 0)) as stream:
        told = [*stream]
    ids = [one.id for one in told if one.event == "state"]
    assert len(ids) == 6
    assert ids == sorted(ids)
    assert told[-1].event == "end"


def test_after_the_end_there_is_nothing_to_come_back_for(ann: Caller, news: None) -> None:
    job_id = submit(ann)
    with closing(follow(ann, events_of(job_id))) as stream:
        next(stream)
        cancel(ann, job_id)
        assert [*stream][-1].event == "end"
    answer = ann.get(events_of(job_id), headers={"Last-Event-ID": str(stream.last_id)})
    assert (answer.status_code, answer.data) == (204, b"")
    with closing(follow(ann, events_of(job_id))) as stream:  # who never came sees how it ended
        assert [one.event for one in stream] == ["", "job", "end"]


def test_a_stream_ends_when_its_job_is_removed(ann: Caller, news: None, service: Service) -> None:
    job_id = submit(ann)
    with closing(follow(ann, events_of(job_id))) as stream:
        next(stream)
        assert next(stream).event == "job"
        cancel(ann, job_id)
        assert ann.delete(f"/api/jobs/{job_id}").status_code == 204
        assert [one.event for one in stream] == ["end"]


@pytest.mark.parametrize("of_all", [False, True])
def test_a_stream_closes_when_the_token_expires(ann: Caller, news: None, of_all: bool) -> None:
    job_id = submit(ann)
    claims = jwt.decode(ann.access_token, SECRET, algorithms=["HS256"])
    expiry = int(utc_now().timestamp()) + 2
    short = Caller(ann.app, ann.id, jwt.encode({**claims, "exp": expiry}, SECRET, "HS256"))
    with closing(follow(short, "/api/jobs/events" if of_all else events_of(job_id))) as stream:
        told = [*stream]
    assert utc_now().timestamp() >= expiry
    assert [one.event for one in told] == ["", "job", "end"]
    assert_problem(short.get(events_of(job_id)), 401, "token_expired")


def test_one_stream_tells_of_all_ones_own_jobs(ann: Caller, bob: Caller, news: None) -> None:
    first = submit(ann)
    submit(bob)
    with closing(follow(ann, "/api/jobs/events")) as stream:
        next(stream)
        shown = next(stream)
        assert (shown.event, shown.content["id"]) == ("job", first)
        second = submit(ann)
        told = [next(stream), next(stream)]
        assert [(one.event, one.state) for one in told] == [
            ("state", "waiting"),
            ("job", "PROGRESS"),
        ] or told[0].content["job_id"] != first
        heard = until(stream, lambda one: one.event == "job" and one.content["id"] == second)
        cancel(ann, second)
        heard += until(stream, lambda one: one.event == "job" and one.state == "REVOKED")
        assert heard[-1].content["id"] == second
        resumed_from = stream.last_id
    cancel(ann, first)
    with closing(follow(ann, "/api/jobs/events", resumed_from)) as stream:
        next(stream)
        missed = until(stream, lambda one: one.event == "state" and one.state == "cancelled")
    assert missed[-1].content["job_id"]
    everything = [*told, *heard, *missed]
    assert all(one.content is None or "bob" not in str(one.content) for one in everything)


def until(stream: Stream, last: Callable[[Told], bool]) -> list[Told]:
    """Read up to and with the message that is looked for."""
    told = []
    for one in stream:
        told.append(one)
        if last(one):
            return told
    raise AssertionError(told)


def test_a_stream_holds_no_connection_to_the_database(
    service: Service, ann: Caller, news: None, waiting: threading.Event
) -> None:
    job_id = submit(ann)
    with closing(follow(ann, events_of(job_id))) as stream:
        assert connections(service) == 0
        next(stream)
        next(stream)
        assert connections(service) == 0
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(lambda: [*stream])
            assert waiting.wait(SOON)
            assert connections(service) == 0
            cancel(ann, job_id)
            assert rest.result(SOON)[-1].event == "end"
    assert connections(service) == 0


def test_streams_are_bounded(make_service: OpenService) -> None:
    service = make_service(max_streams=2)
    ann = service.sign_in()
    job_id = submit(ann)
    first, second = follow(ann, events_of(job_id)), follow(ann, "/api/jobs/events")
    with closing(second):
        for path in (events_of(job_id), "/api/jobs/events"):
            answer = ann.get(path)
            assert_problem(answer, 503, "unavailable")
            assert int(answer.headers["Retry-After"]) >= 1
        assert ann.get(f"/api/jobs/{job_id}?wait=30").status_code == 200  # at once: no place
        first.close()
        with closing(follow(ann, events_of(job_id))) as third:
            assert next(third).id is not None


def test_head_of_a_stream_takes_no_place(make_service: OpenService) -> None:
    service = make_service(max_streams=1)
    ann = service.sign_in()
    for _ in range(3):
        answer = ann.open("HEAD", "/api/jobs/events")
        assert (answer.status_code, answer.data) == (200, b"")


# ---------------------------------------------------------------- a real server


@pytest.mark.integration
def test_watchers_of_a_real_server_see_the_end_and_hold_nobody_up(server: Server) -> None:
    ann = server.service.sign_in("ann")
    job_id = submit(ann)
    with httpx.Client(base_url=server.url, headers=ann.bearer, timeout=SOON) as client:

        def told() -> list[str]:
            with client.stream("GET", events_of(job_id)) as answer:
                watching.release()
                return [one.event for one in messages(answer.iter_text())]

        most = server.service.settings.max_streams
        watching = threading.Semaphore(0)
        with ThreadPoolExecutor(most) as pool:
            watchers = [pool.submit(told) for _ in range(most)]
            for _ in watchers:
                assert watching.acquire(timeout=SOON)
            refused = client.get(events_of(job_id))
            assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
            assert client.get("/healthz").status_code == 200
            cancel(ann, job_id)
            for watcher in watchers:
                assert watcher.result(SOON)[-1] == "end"
        ended = client.get(f"/api/jobs/{job_id}?wait=30").json()
    assert ended["status"] == "cancelled"
