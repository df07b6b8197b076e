"""What one who follows jobs is told: Server-Sent Events, each once and in order.

See WHATWG HTML, section 9.2.
"""

import json
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from backend.accounts.guards import LogIn
from backend.db import db
from backend.jobs import queries
from backend.jobs.models import Job
from backend.jobs.queries import MOST_EVENTS, Happened, Place
from backend.jobs.schemas import JobSchema
from backend.jobs.states import CLIENT_STATE

MOST_ACTIVE = 200  # jobs whose state a new stream begins with
MOST_SHOWN = 1000  # jobs whose shown version is remembered: of others, only their events are told
MOST_WRITTEN = 2000  # messages that are kept for the next who is told the same

KEEPALIVE = ": still here\n\n"
END = "event: end\ndata: {}\n\n"


class Seen(NamedTuple):
    """What a look at the ledger brought."""

    happened: Sequence[Happened]
    jobs: Sequence[Job]

    @property
    def is_all(self) -> bool:
        """Whether nothing was left for the next look."""
        return len(self.happened) < MOST_EVENTS


class Follower:
    """One who follows a job, or all of an owner's jobs; remembers what was told.

    Holds the versions of at most `MOST_SHOWN` jobs.
    """

    def __init__(
        self, owner_id: int, job_id: UUID | None, log_in: LogIn, after: Place | None
    ) -> None:
        self.owner_id = owner_id
        self.job_id = job_id
        self.log_in = log_in
        self.cursor = after or queries.last_place(db.session(), owner_id, job_id)
        self.shown: dict[UUID, int] = {}  # the version of each active job, the last told last

    def opening(self) -> str:
        """How a stream begins: when to come back, and after which event."""
        return f"retry: 2000\nid: {_id_of(self.cursor)}\n\n"

    def look(self, shown: Collection[UUID] = ()) -> Seen:
        """Read what there is to tell, also of jobs that others were shown."""
        session = db.session()
        if self.job_id is not None:
            # The job before its events: those of an end that was seen are there by then.
            now = queries.among(session, self.owner_id, {self.job_id})
            return Seen(queries.events_of_job(session, self.job_id, self.cursor), now)
        # A batch speaks for its children.
        happened = queries.events_of_owner(session, self.owner_id, self.cursor)
        active = queries.active(session, self.owner_id, MOST_ACTIVE)
        others = {each.event.job_id for each in happened} | {*self.shown, *shown}
        others -= {job.id for job in active}
        return Seen(happened, [*active, *queries.among(session, self.owner_id, others)])

    def tell(self, seen: Seen) -> str:
        """The messages of what was seen and not yet told; empty if all was."""
        news = [each for each in seen.happened if self.is_new(each.place)]
        if news:
            self.cursor = news[-1].place
        return "".join([*map(_event, news), *self._changes(seen.jobs, news)])

    def is_over(self, seen: Seen) -> bool:
        """Whether the one job that is followed had ended, or was deleted."""
        return self.job_id is not None and seen.is_all and all(job.ended for job in seen.jobs)

    def is_new(self, place: Place) -> bool:
        """Whether the event at this place comes after all that were told."""
        # The events of one job come by their ids, those of many by all of their places.
        return place.id > self.cursor.id if self.job_id is not None else place > self.cursor

    def _changes(self, jobs: Iterable[Job], news: Sequence[Happened]) -> Iterable[str]:
        of = {each.event.job_id for each in news}
        for job in jobs:
            before = self.shown.pop(job.id, None)
            if not job.ended:
                self.shown[job.id] = job.version
            elif self.job_id is None and before is None and job.id not in of:
                continue  # told with its end, which is past
            if before != job.version:
                yield _job(job)
        while len(self.shown) > MOST_SHOWN:
            del self.shown[next(iter(self.shown))]


_written: dict[tuple[Hashable, Hashable], str] = {}


def _once(key: tuple[Hashable, Hashable], write: Callable[[], str]) -> str:
    """Many are told the same, so a message is written once."""
    message = _written.get(key)
    if message is None:
        message = write()
        if len(_written) >= MOST_WRITTEN:
            _written.clear()
        _written[key] = message
    return message


def _job(job: Job) -> str:
    # Its version stands for all of its columns.
    return _once((job.id, job.version), lambda: _message("job", JobSchema().dump(job)))


def _event(happened: Happened) -> str:
    event = happened.event
    # Not the event's id alone, which two databases of one process share.
    key = (event.job_id, (event.id, happened.state))
    return _once(key, lambda: _write_event(happened))


def _write_event(happened: Happened) -> str:
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
