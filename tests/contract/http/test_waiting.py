"""Waiting for a job: the long poll, and Server-Sent Events over a real server."""

import json
import os
import select
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from flask_jwt_extended import create_access_token, decode_token

from backend.compression.engine import Level, SignedPolicy
from backend.compression.jobs import compress_bulk, compress_file
from backend.db import transaction
from backend.jobs import attempts, batches, claims, submit, submit_batch
from backend.jobs.attempts import Progress
from backend.jobs.claims import Claim, Slot
from backend.jobs.duties import clean_up
from backend.jobs.kinds import Queue
from backend.jobs.models import Job
from backend.storage.models import StoredFile
from tests.contract.http.conftest import OpenService
from tests.contract.http.service import PROBLEM, Caller, Server, checked_problem, serving

PATIENCE_SECONDS = 30.0
FILE = {
    "name": "a.pdf",
    "original_bytes": 1,
    "level": Level.MEDIUM,
    "image_quality": 80,
    "target_bytes": None,
    "sealed_password": None,
    "signed": SignedPolicy.SKIP,
    "compress_attachments": False,
}


@dataclass(frozen=True)
class Person:
    """Someone who calls a real server, and to whose jobs the tests let things happen."""

    server: Server
    caller: Caller

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.server.url, headers=self.caller.bearer, timeout=PATIENCE_SECONDS
        )

    def get(self, path: str, **headers: str) -> httpx.Response:
        with self.http as client:
            return client.get(path, headers=headers)

    def submit(self) -> UUID:
        with self.caller.app.app_context(), transaction() as session:
            return submit(session, clean_up, self.caller.id).id

    def submit_batch(self, files: int) -> UUID:
        with self.caller.app.app_context(), transaction() as session:
            kept = StoredFile(
                owner_id=self.caller.id, sha256=uuid4().hex * 2, size_bytes=1, media_type="a/pdf"
            )
            session.add(kept)
            session.flush()
            children = [(f"{n}.pdf", {**FILE, "file_id": kept.id}) for n in range(files)]
            return submit_batch(
                session, compress_bulk, self.caller.id, compress_file, children, file_count=files
            ).id

    def begin(self, queue: Queue = Queue.LOW) -> Claim:
        """Let a worker take the queue's next job."""
        with self.caller.app.app_context(), transaction() as session:
            (held,) = claims.claim(session, Slot("w@test/1", (queue,), 600))
        assert held is not None
        return held

    def advance(self, held: Claim, percent: float) -> None:
        shown = Progress(percent=percent, stage="jobs", message=f"{percent:g} %")
        with self.caller.app.app_context(), transaction() as session:
            assert attempts.report(session, held, shown)

    def finish(self, held: Claim) -> None:
        with self.caller.app.app_context(), transaction() as session:
            assert attempts.finish(session, held, {"jobs": 0})

    @contextmanager
    def stream(self, path: str, **headers: str) -> Iterator["Stream"]:
        with self.http as client, client.stream("GET", path, headers=headers) as answer:
            yield Stream(answer, answer.iter_lines())


@dataclass(frozen=True)
class Message:
    """A message of a stream."""

    event: str
    id: str
    said: Any


@dataclass(frozen=True)
class Stream:
    """An open stream of events."""

    answer: httpx.Response
    lines: Iterator[str]

    def next(self) -> Message:
        """The next message; comments are passed over."""
        fields: dict[str, str] = {}
        for line in self.lines:
            if not line and fields:
                break
            name, _, value = line.partition(": ")
            fields[name] = value
        assert fields, "the stream has ended"
        said = json.loads(fields["data"]) if "data" in fields else None
        return Message(fields.get("event", ""), fields.get("id", ""), said)

    def until(self, event: str) -> list[Message]:
        """The messages up to the first of this name, and that one."""
        found = [self.next()]
        while found[-1].event != event:
            found.append(self.next())
        return found

    def is_over(self) -> bool:
        return not [*self.lines]


@pytest.fixture
def ann(server: Server) -> Iterator[Person]:
    yield from person(server, "ann")


@pytest.fixture
def bob(server: Server) -> Iterator[Person]:
    yield from person(server, "bob")


def person(server: Server, name: str) -> Iterator[Person]:
    """Someone whose jobs are gone when the test is over."""
    caller = server.service.sign_in(name)
    yield Person(server, caller)
    with caller.app.app_context(), transaction() as session:
        for table in (Job, StoredFile):
            session.query(table).filter_by(owner_id=caller.id).delete()


def of(messages: list[Message], event: str) -> list[Any]:
    return [message.said for message in messages if message.event == event]


# ---------------------------------------------------------------- the long poll


def test_a_long_poll_is_answered_when_the_job_changes(ann: Person) -> None:
    job_id = ann.submit()
    seen = ann.get(f"/api/jobs/{job_id}").headers["ETag"]
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ann.get, f"/api/jobs/{job_id}?wait=30", **{"If-None-Match": seen})
        held = ann.begin()
        answer = asked.result(PATIENCE_SECONDS)
    assert (answer.status_code, answer.json()["job"]["state"]) == (200, "PROGRESS")
    ann.finish(held)


def test_a_long_poll_for_what_has_changed_already_is_answered_at_once(ann: Person) -> None:
    job_id = ann.submit()
    seen = ann.get(f"/api/jobs/{job_id}").headers["ETag"]
    ann.advance(held := ann.begin(), 50)

    answer = ann.get(f"/api/jobs/{job_id}?wait=30", **{"If-None-Match": seen})

    assert (answer.status_code, answer.json()["job"]["percent"]) == (200, 50)
    assert answer.elapsed < timedelta(seconds=1)  # and not after thirty
    ann.finish(held)


def test_a_long_poll_in_which_nothing_happens_says_so(ann: Person) -> None:
    job_id = ann.submit()
    seen = ann.get(f"/api/jobs/{job_id}").headers["ETag"]

    same = ann.get(f"/api/jobs/{job_id}?wait=0.2", **{"If-None-Match": seen})
    whole = ann.get(f"/api/jobs/{job_id}?wait=0.2")

    assert (same.status_code, same.headers["ETag"], same.content) == (304, seen, b"")
    assert (whole.status_code, whole.json()["status"]) == (200, "pending")


def test_a_long_poll_for_an_ended_job_does_not_wait(ann: Person) -> None:
    job_id = ann.submit()
    ann.finish(ann.begin())

    answer = ann.get(f"/api/jobs/{job_id}?wait=30")

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.elapsed < timedelta(seconds=1)


def test_a_batch_is_waited_for_in_the_same_way(ann: Person) -> None:
    job_id = ann.submit_batch(2)
    path = f"/api/compress/jobs/{job_id}"
    seen = ann.get(path).headers["ETag"]
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ann.get, f"{path}?wait=30", **{"If-None-Match": seen})
        with ann.caller.app.app_context(), transaction() as session:
            batches.roll_up(session, job_id, 0.9)
        answer = asked.result(PATIENCE_SECONDS)
    assert (answer.status_code, answer.json()["file_count"]) == (200, 2)
    assert answer.headers["ETag"] != seen


@pytest.mark.parametrize("wait", ["-1", "31", "soon", "NaN", "inf", ""])
def test_a_wait_that_is_none_is_refused_by_name(ann: Person, wait: str) -> None:
    answer = ann.get(f"/api/jobs/{ann.submit()}?wait={wait}")
    assert answer.headers["Content-Type"] == PROBLEM
    assert "wait" in checked_problem(answer.json(), 422)["fields"]


def test_long_polls_leave_threads_for_other_requests(ann: Person) -> None:
    """The server has eight threads, of which six may wait."""
    job_id = ann.submit()
    seen = ann.get(f"/api/jobs/{job_id}").headers["ETag"]
    waiting = {"If-None-Match": seen}
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(ann.get, f"/api/jobs/{job_id}?wait=30", **waiting) for _ in range(10)]
        # Those for whom there is no place are answered at once.
        at_once = [each.result() for each in islice(as_completed(asked), 4)]
        polled = ann.get(f"/api/jobs/{job_id}", **waiting)
        still = [each for each in asked if not each.done()]
        held = ann.begin()
        answers = [each.result(PATIENCE_SECONDS) for each in still]

    assert {answer.status_code for answer in [*at_once, polled]} == {304}
    assert polled.elapsed < timedelta(seconds=5)
    assert len(still) == 6
    assert {answer.json()["job"]["state"] for answer in answers} == {"PROGRESS"}
    ann.finish(held)


# ---------------------------------------------------------------- the events of one job


def test_a_stream_tells_a_job_from_where_it_is_to_its_end(ann: Person) -> None:
    job_id = ann.submit()
    with ann.stream(f"/api/jobs/{job_id}/events") as stream:
        assert stream.answer.status_code == 200
        assert stream.answer.headers["Content-Type"].startswith("text/event-stream")
        assert stream.answer.headers["Cache-Control"] == "no-store"
        assert stream.answer.headers["X-Accel-Buffering"] == "no"
        first = stream.until("job")
        held = ann.begin()
        for percent in (20, 10, 60):  # the second is behind the first, and is not shown
            ann.advance(held, percent)
            stream.until("job")
        ann.finish(held)
        rest = stream.until("end")
        assert stream.is_over()

    assert first[0].id
    assert first[-1].said["state"] == "PENDING"
    assert rest[-2].said["state"] == "SUCCESS"
    assert rest[-2].said["percent"] == 100


def test_percent_never_falls_and_states_come_in_order_by_the_contracts_names(ann: Person) -> None:
    job_id = ann.submit()
    with ann.stream(f"/api/jobs/{job_id}/events") as stream:
        stream.until("job")
        held = ann.begin()
        stream.until("job")
        for percent in (30, 20, 70):
            ann.advance(held, percent)
        ann.finish(held)
        messages = stream.until("end")

    percents = [job["percent"] for job in of(messages, "job")]
    assert percents == sorted(percents)
    assert [event["state"] for event in of(messages, "state")] == ["SUCCESS"]
    assert set(of(messages, "state")[0]) == {"job_id", "state", "attempt", "note", "at"}


def test_a_stream_goes_on_after_the_last_id_and_repeats_nothing(ann: Person) -> None:
    job_id = ann.submit()
    with ann.stream(f"/api/jobs/{job_id}/events") as stream:
        stream.until("job")
        held = ann.begin()
        seen = stream.until("state")[-1]
    ann.finish(held)  # while nobody watches
    assert seen.said["state"] == "PROGRESS"

    with ann.stream(f"/api/jobs/{job_id}/events", **{"Last-Event-ID": seen.id}) as stream:
        missed = stream.until("end")

    assert [event["state"] for event in of(missed, "state")] == ["SUCCESS"]
    assert of(missed, "job")[-1]["state"] == "SUCCESS"


def test_a_job_of_which_all_was_told_is_not_to_be_asked_for_again(ann: Person) -> None:
    job_id = ann.submit()
    ann.finish(ann.begin())
    with ann.stream(f"/api/jobs/{job_id}/events") as stream:
        last = [message.id for message in stream.until("end") if message.id][-1]

    again = ann.get(f"/api/jobs/{job_id}/events", **{"Last-Event-ID": last})

    assert (again.status_code, again.content) == (204, b"")


@pytest.mark.parametrize("sent", ["7", "-1", "1-", "1-2-3", "one", "1-" + "9" * 40, "1 -1"])
def test_an_id_that_no_stream_gave_is_refused(ann: Person, sent: str) -> None:
    answer = ann.get(f"/api/jobs/{ann.submit()}/events", **{"Last-Event-ID": sent})
    assert "Last-Event-ID" in checked_problem(answer.json(), 422)["error"]


def test_a_job_that_is_deleted_while_it_is_watched_ends_the_stream(ann: Person) -> None:
    job_id = ann.submit()
    with ann.stream(f"/api/jobs/{job_id}/events") as stream:
        stream.until("job")
        with ann.http as client:
            assert client.post(f"/api/jobs/{job_id}/cancel").status_code == 200
            assert client.delete(f"/api/jobs/{job_id}").status_code == 204
        stream.until("end")
        assert stream.is_over()


# ---------------------------------------------------------------- all of one's jobs


def test_a_stream_of_all_jobs_tells_of_each_and_of_nobody_elses(ann: Person, bob: Person) -> None:
    under_way = ann.submit()
    with ann.stream("/api/jobs/events") as stream:
        before = stream.until("job")
        bob.submit()
        mine = ann.submit()
        after = stream.until("job")
        ann.finish(ann.begin())
        while not any(job["state"] == "SUCCESS" for job in of(after, "job")):
            after += stream.until("job")

    assert [job["id"] for job in of(before, "job")] == [str(under_way)]
    told = {event["job_id"] for event in of(after, "state")}
    assert told | {job["id"] for job in of(after, "job")} <= {str(under_way), str(mine)}
    assert str(mine) in told


def test_a_batch_speaks_for_its_children(ann: Person) -> None:
    with ann.stream("/api/jobs/events") as stream:
        stream.next()
        parent_id = ann.submit_batch(3)
        messages = stream.until("job")
        held = ann.begin(Queue.DEFAULT)  # one of the three
        with ann.caller.app.app_context(), transaction() as session:
            attempts.fail(session, held, "It is broken.", code="broken")
            batches.roll_up(session, parent_id, 0.9)
        messages += stream.until("job")

    assert held.parent_id == parent_id
    assert {job["id"] for job in of(messages, "job")} == {str(parent_id)}
    assert [event["state"] for event in of(messages, "state")] == ["PROGRESS"]
    assert of(messages, "job")[-1]["items_done"] == 1


def test_what_happened_while_nobody_watched_is_told_in_its_order(ann: Person) -> None:
    with ann.stream("/api/jobs/events") as stream:
        place = stream.next().id
    jobs = [ann.submit() for _ in range(3)]
    ann.finish(ann.begin())

    with ann.stream("/api/jobs/events", **{"Last-Event-ID": place}) as stream:
        messages = stream.until("job")

    assert [(UUID(event["job_id"]), event["state"]) for event in of(messages, "state")] == [
        *((job_id, "PENDING") for job_id in jobs),
        (jobs[0], "PROGRESS"),
        (jobs[0], "SUCCESS"),
    ]


# ---------------------------------------------------------------- who may watch, and for how long


def test_a_stream_closes_when_the_token_expires(ann: Person) -> None:
    with ann.caller.app.app_context():
        claims = decode_token(ann.caller.access_token)
        short = create_access_token(
            claims["sub"],
            additional_claims={"sid": claims["sid"]},
            expires_delta=timedelta(seconds=2),
        )
    job_id = ann.submit()
    headers = {"Authorization": f"Bearer {short}"}
    with ann.stream(f"/api/jobs/{job_id}/events", **headers) as stream:
        messages = stream.until("end")
        assert stream.is_over()
    assert of(messages, "job")[-1]["state"] == "PENDING"
    assert ann.get(f"/api/jobs/{job_id}/events", **headers).status_code == 401


def test_a_stream_closes_when_the_log_in_ends(server: Server) -> None:
    eve = Person(server, server.service.sign_in("eve"))
    with eve.stream("/api/jobs/events") as stream:
        stream.next()
        with eve.http as client:
            assert client.post("/api/auth/logout").status_code == 200
        stream.until("end")
        assert stream.is_over()


def test_anothers_job_and_no_token_open_no_stream(ann: Person, bob: Person) -> None:
    path = f"/api/jobs/{ann.submit()}/events"
    checked_problem(bob.get(path).json(), 404)
    checked_problem(ann.get(path, Authorization="Bearer none").json(), 401)


def test_one_stream_too_many_is_refused_and_the_others_go_on(ann: Person) -> None:
    job_id = ann.submit()
    path = f"/api/jobs/{job_id}/events"
    with ann.stream(path) as first, ann.stream(path) as second, ann.stream(path) as third:
        for each in (first, second, third):
            each.until("job")
        refused = ann.get(path)
        polled = ann.get(f"/api/jobs/{job_id}")
        ann.finish(ann.begin())
        for each in (first, second, third):
            assert of(each.until("end"), "job")[-1]["state"] == "SUCCESS"

    checked_problem(refused.json(), 503)
    assert int(refused.headers["Retry-After"]) > 0
    assert polled.status_code == 200


def test_a_watcher_that_hangs_up_leaves_room_for_the_next(ann: Person) -> None:
    path = f"/api/jobs/{ann.submit()}/events"
    answered = 0
    while answered < 10:  # more than there may be at once, each of which has hung up
        with ann.stream(path) as stream:
            answered += stream.answer.status_code == 200


@pytest.fixture
def own_server(make_service: OpenService) -> Iterator[Server]:
    with serving(make_service()) as found:
        yield found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_lets_its_watchers_and_its_port_go(
    own_server: Server, number: signal.Signals
) -> None:
    ann = Person(own_server, own_server.service.sign_in("ann"))
    path, workers = f"/api/jobs/{ann.submit()}", own_server.workers
    with ann.stream(f"{path}/events") as stream:
        stream.until("job")
        own_server.process.send_signal(
            number
        )  # its master: the workers are told by it, or by the kernel
        assert stream.is_over()
    own_server.process.wait(PATIENCE_SECONDS)
    for pid in workers:
        wait_until_gone(pid)
    with socket.socket() as next_server:
        next_server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        next_server.bind(("127.0.0.1", own_server.port))


def wait_until_gone(pid: int) -> None:
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], PATIENCE_SECONDS)[0]
        finally:
            os.close(descriptor)
