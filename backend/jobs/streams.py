"""Waiting for a job: the long poll and Server-Sent Events (WHATWG HTML, section 9.2)."""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from flask import Response, current_app, request, stream_with_context

from backend.accounts.guards import LogIn
from backend.db import db
from backend.errors import InvalidInput, Unavailable
from backend.http.headers import EVENT_ID
from backend.http.requests import caller_has_gone
from backend.jobs import queries
from backend.jobs.live import Hub, Watcher
from backend.jobs.models import Job
from backend.jobs.queries import Happened, Place
from backend.jobs.schemas import JobSchema
from backend.jobs.states import CLIENT_STATE

LOOK_SECONDS = 2.0  # how often the ledger is looked at when nothing is heard
GLANCE_SECONDS = 0.25  # how often a waiting answer looks whether its caller is still there
PAUSE_SECONDS = 0.2  # between two looks, however much is heard
KEEPALIVE_SECONDS = 15.0
MOST_ACTIVE = 200  # jobs whose state a new stream begins with


def hub() -> Hub:
    """The process's hub of watchers."""
    found: Hub = current_app.extensions["sluice.hub"]
    return found


Tag = Callable[[Job], str]


def tag_of(job: Job) -> str:
    """What a job is known by: its version counts every change."""
    return f"{job.id.hex}-{job.version}"


def tag_of_batch(job: Job) -> str:
    """What a batch is known by where its children are told of one by one."""
    return f"{tag_of(job)}-{queries.children_version(db.session(), job.id)}"


def wait_for_change(owner_id: int, job: Job, seconds: float, tag: Tag = tag_of) -> Job:
    """Hold on until the job is not as the caller has seen it, or the time is over.

    The caller's If-None-Match says what was seen; without one, the job as it is now.
    """
    if request.if_none_match and not is_seen(tag(job)):
        return job
    seen, until = tag(job), time.monotonic() + seconds
    with hub().watch(owner_id, job.id) as watcher:
        while watcher and not job.ended and tag(job) == seen:
            left = until - time.monotonic()
            if left <= 0:
                break
            db.session.commit()
            db.session.remove()
            if not _rest(watcher, min(left, LOOK_SECONDS)):
                return job
            job = queries.owned(db.session(), owner_id, job.id)
    return job


def _rest(watcher: Watcher, seconds: float) -> bool:
    """Wait for news or for the time to pass; False when nobody is to be told any more.

    That is so when the caller has hung up, or this process is to end: the caller asks again,
    and another answers.
    """
    until = time.monotonic() + seconds
    while not (caller_has_gone() or hub().is_stopping()):
        left = until - time.monotonic()
        if left <= 0 or watcher.wait(min(left, GLANCE_SECONDS)):
            return True
    return False


def is_seen(tag: str) -> bool:
    """Whether the caller's If-None-Match has this tag (RFC 9110, section 13.1.2)."""
    return request.if_none_match.contains_weak(tag)


def last_event_id() -> Place | None:
    """The place after which a resumed stream goes on; InvalidInput if its id is none of ours."""
    sent = request.headers.get("Last-Event-ID", "")
    if not sent:
        return None
    if not re.fullmatch(EVENT_ID, sent):
        raise InvalidInput(f"Last-Event-ID: {sent[:40]!a} is not an id that a stream gave out.")
    return Place(*map(int, sent.split("-")))


def job_stream(owner_id: int, job: Job, log_in: LogIn) -> Response:
    """The events of one job, until it has ended, is deleted, or the log-in is over."""
    job_id, after = job.id, last_event_id()
    if job.ended and after is not None and not queries.events_of_job(db.session(), job_id, after):
        return Response(status=204)  # nothing will come: the client need not reconnect

    def look(_: Shown, cursor: Place) -> Seen:
        # The job before its events: those of an end that was seen are there by then.
        now = queries.among(db.session(), owner_id, {job_id})
        return queries.events_of_job(db.session(), job_id, cursor), now

    return _stream(owner_id, job_id, after, log_in, look)


def owner_stream(owner_id: int, log_in: LogIn) -> Response:
    """The events of all of an owner's jobs, until the log-in is over.

    A batch speaks for its children.
    """

    def look(shown: Shown, cursor: Place) -> Seen:
        happened = queries.events_of_owner(db.session(), owner_id, cursor)
        active = queries.active(db.session(), owner_id, MOST_ACTIVE)
        of = {each.event.job_id for each in happened} | set(shown)
        ended = queries.among(db.session(), owner_id, of - {job.id for job in active})
        return happened, [*active, *ended]

    return _stream(owner_id, None, last_event_id(), log_in, look)


Shown = dict[UUID, int]  # the version of each active job that the stream has shown
Seen = tuple[Sequence[Happened], Sequence[Job]]


def _stream(
    owner_id: int,
    job_id: UUID | None,
    after: Place | None,
    log_in: LogIn,
    look: Callable[[Shown, Place], Seen],
) -> Response:
    watching = hub().watch(owner_id, job_id)
    watcher = watching.__enter__()
    if watcher is None:
        watching.__exit__(None, None, None)
        raise Unavailable("Too many streams are open on this server; poll, or try again shortly.")

    def generate(watcher: Watcher) -> Iterator[str]:
        cursor = after or queries.last_place(db.session(), owner_id, job_id)
        shown: Shown = {}
        spoke = time.monotonic()
        yield f"retry: 2000\nid: {_id_of(cursor)}\n\n"
        while True:
            happened, jobs = look(shown, cursor)
            said = [*map(_event, happened), *_changes(jobs, shown)]
            cursor = happened[-1].place if happened else cursor
            over = job_id is not None and not shown  # it has ended, or was deleted
            over = over or not log_in.holds()
            # Nothing is held while waiting: neither a connection nor a snapshot.
            db.session.commit()
            db.session.remove()
            if said:
                yield "".join(said)
                spoke = time.monotonic()
            elif time.monotonic() - spoke > KEEPALIVE_SECONDS:
                yield ": still here\n\n"
                spoke = time.monotonic()
            if over:
                yield "event: end\ndata: {}\n\n"
                return
            time.sleep(PAUSE_SECONDS if said else 0)
            if not _rest(watcher, min(LOOK_SECONDS, log_in.seconds_left)):
                return

    response = Response(stream_with_context(generate(watcher)), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Cache-Control"] = "no-store"
    response.call_on_close(lambda: watching.__exit__(None, None, None))
    return response


def _changes(jobs: Sequence[Job], shown: Shown) -> Iterator[str]:
    """A message for each job that has changed since it was shown; what is no more is forgotten."""
    before = dict(shown)
    shown.clear()
    for job in jobs:
        if not job.ended:
            shown[job.id] = job.version
        if before.get(job.id) != job.version:
            yield _message("job", JobSchema().dump(job))


def _event(happened: Happened) -> str:
    event = happened.event
    content = {
        "job_id": str(event.job_id),
        "state": CLIENT_STATE[happened.state],
        "attempt": event.attempt,
        "note": event.note,
        "at": event.at.isoformat(),
    }
    return _message("state", content, happened.place)


def _id_of(place: Place) -> str:
    return f"{place.txid}-{place.id}"


def _message(event: str, content: dict[str, Any], place: Place | None = None) -> str:
    head = f"id: {_id_of(place)}\n" if place is not None else ""
    return f"{head}event: {event}\ndata: {json.dumps(content)}\n\n"
