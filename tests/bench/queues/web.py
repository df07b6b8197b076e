"""Sluice's web server at a site, and people who ask it over connections that stay open."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.bench.queues.processes import Broken
from tests.bench.queues.systems import HERE, Site
from tests.integration.stack import ROOT

START_SECONDS = 60.0
ANSWER_SECONDS = 300.0
IDLE_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """An answer's status and content, and the milliseconds from the request to its last byte."""

    status: int
    content: Any
    ms: float


@dataclass
class Person:
    """Somebody who is signed in."""

    address: tuple[str, int]
    token: str = ""
    id: int = 0
    seconds: float = ANSWER_SECONDS  # what an answer may take

    def __post_init__(self) -> None:
        self._link = http.client.HTTPConnection(*self.address, timeout=self.seconds)
        self._used = 0.0

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Answer:
        """Send a request; return the answer."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        sent = None if body is None else json.dumps(body)
        if sent is not None:
            headers["Content-Type"] = "application/json"
        target = path + (f"?{urlencode(query)}" if query else "")
        if time.monotonic() - self._used > IDLE_SECONDS:
            self._link.close()  # the server may have closed its end by now
        if self._link.sock is None:
            self._link.connect()
        started = time.monotonic()
        self._link.request(method, target, sent, headers)
        answer = self._link.getresponse()
        content = answer.read()
        self._used = time.monotonic()
        ms = (self._used - started) * 1000
        is_json = "json" in answer.headers.get("Content-Type", "")
        return Answer(answer.status, json.loads(content) if is_json else content, ms)

    def get(self, path: str, **query: Any) -> Answer:
        """Ask for something that is there; Broken if it is not."""
        answer = self.ask("GET", path, **query)
        if answer.status != 200:
            raise Broken(f"GET {path} {query}: {answer.status} {str(answer.content)[:300]}")
        return answer


@dataclass
class Web:
    """The web server of a site."""

    site: Site

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.site.processes.environment["WEB_BIND"].partition(":")
        return host, int(port)

    def start(self) -> None:
        """Start gunicorn as the deployment does; wait until it answers."""
        config = str(ROOT / "deploy/gunicorn.conf.py")
        self.site.start("web", ["gunicorn", "-c", config, f"{HERE}.kinds:web"])
        until = time.monotonic() + START_SECONDS
        while True:
            self.site.processes.check()
            try:
                if Person(self.address).ask("GET", "/healthz").status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > until:
                raise Broken(f"the web does not answer:\n{self.site.processes.last_words('web')}")
            time.sleep(0.05)

    def sign_up(self) -> Person:
        """Somebody new."""
        person = Person(self.address)
        account = {"email": f"bench-{time.time_ns()}@example.org", "password": "a long password"}
        answer = person.ask("POST", "/api/auth/register", account)
        if answer.status != 201:
            raise Broken(f"nobody can register: {answer.status} {answer.content}")
        person.token = answer.content["access_token"]
        person.id = answer.content["user"]["id"]
        return person


def ledger(site: Site, command: str, *said: object) -> Any:
    """Do a command of `ledger` to the site's ledger; return its answer."""
    line = [site.bin / "python", "-m", f"{HERE}.ledger", command, *map(str, said)]
    return site.processes.ask(f"ledger-{command}", line)
