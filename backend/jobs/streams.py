"""Waiting for a job: the long poll and Server-Sent Events (WHATWG HTML, section 9.2)."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flask import Response, current_app, request, stream_with_context
from werkzeug.http import http_date

from backend.accounts.guards import LogIn
from backend.db import db
from backend.errors import InvalidInput, Unavailable
from backend.http.headers import EVENT_ID
from backend.http.requests import caller_has_gone, may_take_over, take_over
from backend.jobs import queries
from backend.jobs.follower import END, KEEPALIVE, Follower
from backend.jobs.live import Hub, Watcher
from backend.jobs.models import Job
from backend.jobs.queries import Place
from backend.jobs.relay import (
    GLANCE_SECONDS,
    KEEPALIVE_SECONDS,
    LOOK_SECONDS,
    PAUSE_SECONDS,
    Relay,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

MEDIA_TYPE = "text/event-stream"
FULL = "Too many streams are open on this server; poll, or try again shortly."


def hub() -> Hub:
    """The process's hub of watchers."""
    found: Hub = current_app.extensions["sluice.hub"]
    return found


def relay() -> Relay:
    """The process's relay of streams."""
    found: Relay = current_app.extensions["sluice.relay"]
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
    after = last_event_id()
    if job.ended and after is not None and not queries.events_of_job(db.session(), job.id, after):
        return Response(status=204)  # nothing will come: the client need not reconnect
    return _stream(owner_id, job.id, log_in, after)


def owner_stream(owner_id: int, log_in: LogIn) -> Response:
    """The events of all of an owner's jobs, until the log-in is over.

    A batch speaks for its children.
    """
    return _stream(owner_id, None, log_in, last_event_id())


def _stream(owner_id: int, job_id: UUID | None, log_in: LogIn, after: Place | None) -> Response:
    follower = Follower(owner_id, job_id, log_in, after)
    with ExitStack() as held:
        if not relay().take_seat():
            raise Unavailable(FULL)
        held.callback(relay().leave_seat)
        response: Response
        if relay().is_served and may_take_over():
            response = Relayed(follower)
        else:
            watcher = held.enter_context(hub().watch(owner_id, job_id))
            if watcher is None:
                raise Unavailable(FULL)
            told = stream_with_context(_tell(follower, watcher))
            response = Response(told, mimetype=MEDIA_TYPE)
            response.call_on_close(held.pop_all().close)
        held.pop_all()
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Cache-Control"] = "no-store"
    return response


class Relayed(Response):
    """An answer that goes on over its connection without this thread: the relay tells it."""

    default_mimetype = MEDIA_TYPE

    def __init__(self, follower: Follower) -> None:
        super().__init__()
        self._follower = follower

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Any:
        """Take the connection along; StopIteration tells gunicorn to do nothing more with it."""
        # Without a length, the body lasts until the connection is closed (RFC 9112, section 6.3).
        head = [f"HTTP/1.1 {self.status}", f"Date: {http_date()}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in self.headers if name != "Content-Length"]
        relay().add(take_over(), self._follower, "\r\n".join([*head, "", ""]).encode("latin-1"))
        raise StopIteration


def _tell(follower: Follower, watcher: Watcher) -> Iterator[str]:
    """Tell the follower from the thread of its request, for servers that keep their connections."""
    spoke = time.monotonic()
    yield follower.opening()
    while True:
        seen = follower.look()
        said = follower.tell(seen)
        over = follower.is_over(seen) or not follower.log_in.holds()
        # Nothing is held while waiting: neither a connection nor a snapshot.
        db.session.commit()
        db.session.remove()
        if said:
            yield said
            spoke = time.monotonic()
        elif time.monotonic() - spoke > KEEPALIVE_SECONDS:
            yield KEEPALIVE
            spoke = time.monotonic()
        if over:
            yield END
            return
        time.sleep(PAUSE_SECONDS if said else 0)
        if not _rest(watcher, min(LOOK_SECONDS, follower.log_in.seconds_left)):
            return
