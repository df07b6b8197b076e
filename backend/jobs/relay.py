"""The streams of a web process: one thread that holds all their connections and reads for all.

A server that lets an answer take its connection along (`take_over` in `backend.http.requests`)
hands each stream to this thread, so that a watcher costs no thread of its own. The thread waits
for its connections with a selector, writes without waiting, and sees at once who hangs up.

It reads the ledger once for all: news wakes it, and every two seconds it looks by itself. Who
has just come, or was slow, is behind: it catches up alone, from its own last event, and then is
told with the others. Both are done by this one thread, and each watcher has a cursor of its own,
so that nothing is left out in between and nothing is told twice.

What a watcher does not take is kept for it, and it is told no more until it has taken that: at
most the messages of one look (`MOST_EVENTS` events and the jobs that changed), and what the kernel
keeps of a connection. One that takes nothing for `STALL_SECONDS` is let go; it can come back and
go on after its last event.
"""

import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog
from flask import Flask

from backend.accounts import services as accounts
from backend.config import Settings
from backend.db import AWAY, db
from backend.jobs import queries, watched
from backend.jobs.follower import END, KEEPALIVE, MOST_ACTIVE, Follower, Seen
from backend.jobs.live import MOST_CHANGED, Hub
from backend.jobs.queries import Happened, Place
from backend.jobs.wires import Wire

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0  # how often the ledger is looked at when nothing is heard
PAUSE_SECONDS = 0.2  # between two looks, however much is heard
GLANCE_SECONDS = 0.25  # how often times are looked at, and whether the server is to end
SLICE_SECONDS = 0.02  # of the processor for catching up, before the others have their turn
KEEPALIVE_SECONDS = 15.0
STALL_SECONDS = 60.0
AWAY_SECONDS = 1.0  # until a ledger that could not be read is tried again


class Topic:
    """What several follow: a job, or all of an owner's jobs."""

    def __init__(self, owner_id: int, job_id: UUID | None, cursor: Place) -> None:
        self.owner_id = owner_id
        self.job_id = job_id
        self.cursor = cursor  # what follows it is not told to those who keep up
        self.version = 0  # of the job, when it was read last
        self.last_event = 0  # the id of the owner's newest, at the last look
        self.under_way: dict[UUID, int] = {}  # the versions of an owner's jobs, at the last look
        self.heard: set[UUID] = set()  # jobs of which there was news; at most MOST_CHANGED
        self.wires: set[Wire] = set()


Key = tuple[int, UUID | None]


class Relay:
    """The thread, and the streams that it holds: at most `limit`, also of those it does not.

    A stream that stays with its request's thread takes a seat here as well.
    """

    def __init__(self, app: Flask, hub: Hub, limit: int) -> None:
        self._app = app
        self._hub = hub
        self._seats = threading.Semaphore(limit)
        self._lock = threading.Lock()  # over what other threads bring: the next three
        self._come: list[Wire] = []
        self._due: set[Key] = set()
        self._pid = 0
        self._topics: dict[Key, Topic] = {}
        self._wires: set[Wire] = set()
        self._behind: dict[Wire, None] = {}  # in their order
        self._glance_at = self._look_at = self._sweep_at = self._rest_until = 0.0
        # Whether the server lets answers take their connections along. The server sets it.
        self.is_served = False

    # ------------------------------------------------------------ called by other threads

    def take_seat(self) -> bool:
        """Take one of the places for streams; False when there is none."""
        return self._seats.acquire(blocking=False)

    def leave_seat(self) -> None:
        """Give the place back."""
        self._seats.release()

    def add(self, connection: socket.socket, follower: Follower, head: bytes) -> None:
        """Tell the follower over this connection from now on, beginning with the head.

        The stream has taken its seat already.
        """
        wire = Wire(connection, follower)
        wire.unsent = head + follower.opening().encode()
        with self._lock:
            self._come.append(wire)
            self._start()
        self._ring()

    def hear(self, news: dict[str, Any]) -> None:
        """Note the news if it is of interest. Never waits, never grows without bound."""
        job_id, owner_id = UUID(news["job_id"]), news.get("owner_id")
        keys: list[Any] = [(owner_id, job_id)]
        if not news.get("parent_id"):  # a batch speaks for its children
            keys.append((owner_id, None))
        with self._lock:
            before = len(self._due)
            for key in keys:
                topic = self._topics.get(key)
                if topic is not None and len(topic.heard) < MOST_CHANGED:
                    topic.heard.add(job_id)
                    self._due.add(key)
            is_first = not before and bool(self._due)
        if is_first:
            self._ring()

    def _start(self) -> None:
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        for end in (self._bell, self._rope):
            end.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._hub.subscribe(self)
        threading.Thread(target=self._serve, name="relay", daemon=True).start()

    def _ring(self) -> None:
        with suppress(OSError):  # it rings already, or there is nobody to hear it
            self._rope.send(b"!")

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        try:
            with self._app.app_context():
                while True:
                    self._turn()
        finally:
            # After a fault, watchers come back by themselves; one that is left in silence does not.
            with self._lock:
                self._pid = 0
                left, self._come = [*self._wires, *self._come], []
                self._wires, self._behind = set(), {}
                self._topics, self._due = {}, set()
                for each in (self._selector, self._bell, self._rope):
                    each.close()
            for wire in left:
                wire.connection.close()
                self.leave_seat()

    def _turn(self) -> None:
        for key, mask in self._selector.select(self._patience()):
            if key.data is None:
                self._bell.recv(4096)
                continue
            if mask & selectors.EVENT_READ:
                key.data.hear()
            if mask & selectors.EVENT_WRITE:
                key.data.flush()
            self._settle(key.data)
        self._admit()
        now = time.monotonic()
        if now >= self._glance_at:
            self._glance_at = now + GLANCE_SECONDS
            self._glance(now)
        if now < self._rest_until or not self._wires:
            return
        began = time.thread_time()
        try:
            self._read(now)
        except AWAY as error:
            log.warning("streams_wait", error=str(error)[:200])
            db.session.rollback()
            # Who was told what is uncertain to this thread, and certain to each follower.
            self._behind = dict.fromkeys(self._wires)
            self._rest_until = time.monotonic() + AWAY_SECONDS
        else:
            # As much time for requests as was taken, however much there is to tell.
            self._rest_until = time.monotonic() + time.thread_time() - began
        finally:
            # Nothing is held while waiting: neither a connection nor a snapshot.
            db.session.remove()

    def _patience(self) -> float:
        """For how long there is nothing to do unless somebody stirs."""
        now = time.monotonic()
        at = self._glance_at
        if self._wires and self._due:
            at = min(at, max(self._look_at, self._rest_until))
        if any(wire.is_free for wire in self._behind):
            at = min(at, self._rest_until)
        return max(0.0, at - now)

    def _admit(self) -> None:
        with self._lock:
            come, self._come = self._come, []
        for wire in come:
            self._wires.add(wire)
            self._behind[wire] = None
            self._selector.register(wire.connection, selectors.EVENT_READ, wire)
            follower = wire.follower
            key = (follower.owner_id, follower.job_id)
            with self._lock:
                topic = self._topics.setdefault(key, Topic(*key, follower.cursor))
            topic.wires.add(wire)
            wire.flush()
            self._settle(wire)

    def _settle(self, wire: Wire) -> None:
        """After a wire was used: wait for what it waits for, or let it go."""
        if wire not in self._wires:
            return
        if wire.is_gone:
            self._drop(wire)
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if wire.unsent else 0)
        if self._selector.get_key(wire.connection).events != wanted:
            self._selector.modify(wire.connection, wanted, wire)

    def _drop(self, wire: Wire) -> None:
        if wire in self._wires:
            self._wires.remove(wire)
            self._behind.pop(wire, None)
            self._selector.unregister(wire.connection)
            key = (wire.follower.owner_id, wire.follower.job_id)
            with self._lock:
                topic = self._topics[key]
                topic.wires.remove(wire)
                if not topic.wires:
                    del self._topics[key]
                    self._due.discard(key)
        wire.connection.close()
        self.leave_seat()

    def _glance(self, now: float) -> None:
        is_stopping = self._hub.is_stopping()
        for wire in [*self._wires]:
            if is_stopping or (wire.unsent and now - wire.moved_at > STALL_SECONDS):
                wire.is_gone = True
            elif now >= wire.ends_at and not wire.is_ending:
                wire.end(END)
            elif now - wire.moved_at > KEEPALIVE_SECONDS and wire.is_free:
                wire.say(KEEPALIVE)
            else:
                continue
            self._settle(wire)

    # ------------------------------------------------------------ the ledger

    def _read(self, now: float) -> None:
        if now >= self._sweep_at:
            self._sweep_at = now + LOOK_SECONDS
            self._sweep()
        if now >= self._look_at and self._due:
            with self._lock:
                due, self._due = self._due, set()
                topics = [self._topics[key] for key in due]
                heard = {topic: topic.heard for topic in topics if self._keep_up(topic)}
                for topic in topics:
                    topic.heard = set()
            self._look(heard)
            self._look_at = time.monotonic() + PAUSE_SECONDS
        until = time.thread_time() + SLICE_SECONDS
        for wire in [*self._behind]:
            if wire.is_free and wire in self._behind:
                self._catch_up(wire)
            if time.thread_time() > until:
                break

    def _sweep(self) -> None:
        """See of which topics something changed, news or not, and whose log-in has ended."""
        session = db.session()
        families = {wire.follower.log_in.claims.family_id for wire in self._wires}
        live = accounts.live_families(session, families)
        for wire in [*self._wires]:
            if wire.follower.log_in.claims.family_id not in live and not wire.is_ending:
                wire.end(END)
                self._settle(wire)
        job_ids = {job_id for _, job_id in self._topics if job_id is not None}
        owner_ids = {owner_id for owner_id, job_id in self._topics if job_id is None}
        versions = watched.versions(session, job_ids)
        last = watched.last_events(session, owner_ids)
        under_way = watched.under_way(session, owner_ids, MOST_ACTIVE * len(owner_ids))
        with self._lock:
            for key, topic in self._topics.items():
                if topic.job_id is not None:
                    changed = versions.get(topic.job_id) != topic.version
                else:
                    before, topic.under_way = topic.under_way, under_way.get(topic.owner_id, {})
                    moved = {job_id for job_id, _ in topic.under_way.items() - before.items()}
                    topic.heard |= moved
                    newest = last.get(topic.owner_id, 0)
                    changed = bool(moved) or newest != topic.last_event
                    topic.last_event = newest
                if changed:
                    self._due.add(key)

    def _look(self, heard: dict[Topic, set[UUID]]) -> None:
        """Read what changed of these topics, and tell it to those who keep up."""
        session = db.session()
        # A job before its events: those of an end that was seen are there by then.
        jobs = watched.jobs(session, {topic.job_id for topic in heard if topic.job_id is not None})
        happened = {topic: self._events(topic) for topic in heard}
        for topic, news in happened.items():
            if topic.job_id is None:
                heard[topic] |= {each.event.job_id for each in news}
        others = {job_id for topic, ids in heard.items() if topic.job_id is None for job_id in ids}
        jobs |= watched.jobs(session, others - set(jobs))
        for topic, news in happened.items():
            wanted = heard[topic] if topic.job_id is None else {topic.job_id}
            mine = [jobs[job_id] for job_id in sorted(wanted & set(jobs))]
            seen = Seen(news, [job for job in mine if job.owner_id == topic.owner_id])
            self._spread(topic, seen)

    def _keep_up(self, topic: Topic) -> bool:
        """Whether anybody who follows it is not behind."""
        return any(wire not in self._behind for wire in topic.wires)

    def _events(self, topic: Topic) -> list[Happened]:
        if topic.job_id is not None:
            return queries.events_of_job(db.session(), topic.job_id, topic.cursor)
        return queries.events_of_owner(db.session(), topic.owner_id, topic.cursor)

    def _spread(self, topic: Topic, seen: Seen) -> None:
        if seen.happened:
            topic.cursor = seen.happened[-1].place
        if topic.job_id is not None:
            topic.version = seen.jobs[0].version if seen.jobs else 0
        if not seen.is_all:
            with self._lock:
                self._due.add((topic.owner_id, topic.job_id))
        for wire in [*topic.wires]:
            if wire in self._behind:
                continue
            if wire.is_free:
                self._tell(wire, seen)
            elif not wire.is_ending:
                self._behind[wire] = None

    def _catch_up(self, first: Wire) -> None:
        """Tell one who is behind, and with it those of its topic who are no further behind."""
        cursor = first.follower.cursor
        topic = self._topics[first.follower.owner_id, first.follower.job_id]
        wires = [
            wire
            for wire in topic.wires
            if wire in self._behind and wire.is_free and not wire.follower.is_new(cursor)
        ]
        seen = first.follower.look({job_id for wire in wires for job_id in wire.follower.shown})
        for wire in wires:
            self._tell(wire, seen)
        if not seen.is_all:
            if first in self._behind:
                self._behind[first] = self._behind.pop(first)  # the others come first now
            return
        if not self._keep_up(topic):
            topic.cursor = first.follower.cursor
        for wire in wires:
            self._behind.pop(wire, None)

    def _tell(self, wire: Wire, seen: Seen) -> None:
        said = wire.follower.tell(seen)
        if wire.follower.is_over(seen):
            wire.end(said + END)
        elif said:
            wire.say(said)
        self._settle(wire)


def connect_relay(app: Flask, settings: Settings) -> None:
    """Give the application its relay of streams. Needs its hub of watchers."""
    app.extensions["sluice.relay"] = Relay(app, app.extensions["sluice.hub"], settings.max_streams)
