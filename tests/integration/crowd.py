"""One web process, and many watchers of it in one thread, over bare sockets: they cost little."""

import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from flask_jwt_extended import create_access_token, decode_token
from sqlalchemy import select

from backend.accounts import services as accounts
from backend.accounts import tokens
from backend.db import transaction
from backend.jobs import attempts, claims
from backend.jobs.duties import clean_up
from backend.jobs.kinds import Queue
from backend.jobs.models import JobEvent
from tests.integration.stack import Stack, TimeIsOver, until

SEPARATOR = b"\n\n"


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in."""

    id: int
    token: str


class Web(Stack):
    """A broker and one web process."""

    @property
    def environment(self) -> dict[str, str]:
        more = {
            "WEB_WORKERS": "1",
            "WEB_THREADS": "64",
            "MAX_STREAMS": "4000",
            "REQUEST_LIMIT_PER_USER": "1000000 per minute",
        }
        return {**super().environment, **more}

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def sign_up(self, count: int = 1) -> list[Person]:
        """People who are signed in."""
        with self.app.app_context(), transaction() as session:
            found = []
            for _ in range(count):
                user = accounts.register(
                    session, email=f"{uuid4().hex}@example.org", password_hash="unused"
                )
                family = accounts.start_session(session, user, self.settings().lease * 1000)
                session.flush()
                found.append(Person(user.id, tokens.mint(family).access_token))
        return found

    def token(self, person: Person, seconds: int) -> str:
        """An access token of the person's log-in that is good for so long."""
        with self.app.app_context():
            log_in = {"sid": decode_token(person.token)["sid"]}
            return create_access_token(
                str(person.id), additional_claims=log_in, expires_delta=timedelta(seconds=seconds)
            )

    def let_one_happen(self, owner_id: int, error: str = "") -> UUID:
        """A job is submitted, begins, and succeeds or fails: three events."""
        job_id = self.submit(clean_up, owner_id=owner_id)
        self.let_run(error)
        return job_id

    def let_run(self, error: str = "") -> None:
        """The next job begins, and succeeds or fails."""
        with self.app.app_context():
            with transaction() as session:
                (held,) = claims.claim(session, claims.Slot("w@test/1", (Queue.LOW,), 600))
            assert held is not None
            with transaction() as session:
                if error:
                    assert attempts.fail(session, held, error, code="broken")
                else:
                    assert attempts.finish(session, held, {"jobs": 0})

    def processor_seconds(self) -> float:
        """The time of a processor that the web processes took."""
        stats = [Path(f"/proc/{pid}/stat").read_text() for pid in self.web_processes()]
        fields = [stat.rpartition(")")[2].split() for stat in stats]
        ticks = sum(int(field[11]) + int(field[12]) for field in fields)
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_kib(self) -> int:
        """What the web processes hold in memory."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.web_processes()]
        return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts)

    def web_processes(self) -> list[int]:
        master = self.programs["web"].pid
        return [*map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split())]

    def events(self) -> dict[int, list[str]]:
        """By owner, the ids of all events."""
        found: dict[int, list[str]] = {}
        with self.ledger() as session:
            rows = session.execute(
                select(JobEvent.owner_id, JobEvent.txid, JobEvent.id).order_by(
                    JobEvent.txid, JobEvent.id
                )
            )
            for owner_id, txid, event_id in rows:
                found.setdefault(owner_id, []).append(f"{txid}-{event_id}")
        return found


@contextmanager
def serving(folder: Path, database_url: str = "", broker: str = "valkey") -> Iterator[Web]:
    """A web process and its broker, on SQLite and Valkey unless told otherwise."""
    web = Web(folder, database_url, broker)
    web.data.mkdir()
    web.migrate()
    web.open_ledger()
    try:
        web.start("broker", "web")
        until(web.answers, "the web answers", 60)
        yield web
    finally:
        web.stop()
        web.close_ledger()


@dataclass(eq=False)
class Watcher:
    """One connection, and what came over it."""

    wire: socket.socket
    head: bytes = b""
    rest: bytes = b""
    messages: list[dict[str, str]] = field(default_factory=list)
    is_over: bool = False

    @property
    def status(self) -> int:
        return int(self.head[9:12] or 0)

    @property
    def events(self) -> list[str]:
        """The ids of the events that were told, in the order of their coming."""
        return [message["id"] for message in self.messages if message.get("event") == "state"]

    @property
    def last_id(self) -> str:
        return [message["id"] for message in self.messages if "id" in message][-1]

    def told(self, event: str) -> list[Any]:
        """What the messages of this name say."""
        return [json.loads(each["data"]) for each in self.messages if each.get("event") == event]

    def is_told(self, event: str) -> bool:
        return any(message.get("event") == event for message in self.messages)

    def knows(self, job_id: UUID) -> bool:
        """Whether the job was shown."""
        return any(job["id"] == str(job_id) for job in self.told("job"))

    def take(self) -> None:
        """Read what has come."""
        try:
            came = self.wire.recv(65536)
        except BlockingIOError:
            return
        except ConnectionResetError:
            came = b""
        self.is_over = not came
        self.rest += came
        if not self.head:
            head, found, rest = self.rest.partition(b"\r\n\r\n")
            if not found:
                return
            self.head, self.rest = head, rest
        *whole, self.rest = self.rest.split(SEPARATOR)
        for part in whole:
            lines = [line.partition(": ") for line in part.decode().split("\n")]
            self.messages.append({name: value for name, _, value in lines if name})


class Crowd:
    """Watchers of one server; they read while `until` runs, and only then."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self.watchers: list[Watcher] = []

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for watcher in self.watchers:
            watcher.wire.close()
        self._selector.close()

    def watch(
        self, path: str, token: str, last_id: str = "", *, reads: bool = True, room: int = 0
    ) -> Watcher:
        """Open a stream. Who never `reads` has `room` bytes for what comes."""
        wire = socket.socket()
        if room:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        wire.settimeout(30)
        wire.connect(("127.0.0.1", self._port))
        head = f"GET {path} HTTP/1.1\r\nHost: crowd\r\nAuthorization: Bearer {token}\r\n"
        head += f"Last-Event-ID: {last_id}\r\n" if last_id else ""
        wire.sendall(f"{head}\r\n".encode())
        watcher = Watcher(wire)
        self.watchers.append(watcher)
        if reads:
            self.resume(watcher)
        else:
            wire.recv(1, socket.MSG_PEEK)  # it watches from now on
        return watcher

    def resume(self, watcher: Watcher) -> None:
        """Let one who did not read begin to."""
        watcher.wire.setblocking(False)
        self._selector.register(watcher.wire, selectors.EVENT_READ, watcher)

    def leave(self, watcher: Watcher) -> None:
        """Hang up."""
        self._selector.unregister(watcher.wire)
        watcher.wire.close()
        self.watchers.remove(watcher)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
        """Read until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeIsOver(f"not within {seconds:g} s: {what}")
            for key, _ in self._selector.select(0.05):
                watcher: Watcher = key.data
                watcher.take()
                if watcher.is_over:
                    self._selector.unregister(watcher.wire)
