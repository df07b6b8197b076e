"""Callers who never rest, and a count of how they were answered."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import httpx

PDFS = Path(__file__).parents[1] / "fixtures/pdf"
NAMES = ("scan-gray.pdf", "form.pdf")


@dataclass
class Load:
    """Callers submit batches, watch them and take their results, over kept and new connections."""

    url: str
    verify: str | bool = True
    over: threading.Event = field(default_factory=threading.Event)
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    batches: list[UUID] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def applied(self, callers: int) -> Iterator[None]:
        """Have so many callers at work; in the end each has seen its last batch through."""
        threads = [
            threading.Thread(target=self._call, args=(number % 2 == 0,), daemon=True)
            for number in range(callers)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join(90)
            stuck = [thread for thread in threads if thread.is_alive()]
        assert not stuck, f"{len(stuck)} callers never saw the end of their batch"

    def _call(self, keep: bool) -> None:
        account = {"email": f"{uuid4().hex}@example.org", "password": "correct horse battery"}
        limits = httpx.Limits(max_keepalive_connections=None if keep else 0)
        with httpx.Client(
            base_url=self.url, timeout=40, limits=limits, verify=self.verify
        ) as client:
            token = self._sure(client, "POST", "/api/auth/register", json=account)
            client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
            while not self.over.is_set():
                self._batch(client)

    def _batch(self, client: httpx.Client) -> None:
        files = [("files", (name, (PDFS / name).read_bytes(), "application/pdf")) for name in NAMES]
        job_id = self._sure(client, "POST", "/api/compress/bulk", files=files).json()["job_id"]
        with self.lock:
            self.batches.append(UUID(job_id))
        while True:
            answer = self._sure(client, "GET", f"/api/jobs/{job_id}", params={"wait": 2})
            if answer.json().get("status") == "completed":
                break
            self._sure(client, "GET", "/api/jobs")
        self._sure(client, "GET", f"/api/jobs/{job_id}/result")

    def _sure(self, client: httpx.Client, method: str, path: str, **more: object) -> httpx.Response:
        """Ask until there is an answer that serves, and count all others."""
        while True:
            try:
                answer = client.request(method, path, **more)  # type: ignore[arg-type]
            except httpx.TransportError as error:
                self._note("failed", f"{method} {path}: {error!r}")
            else:
                if answer.status_code < 400:
                    self._note("served")
                    return answer
                if answer.status_code == 503 and "Retry-After" in answer.headers:
                    self._note("told to come back")
                else:
                    self._note("failed", f"{method} {path}: {answer.status_code} {answer.text}")
            time.sleep(0.2)

    def _note(self, what: str, failure: str = "") -> None:
        with self.lock:
            self.answers[what] += 1
            if failure:
                self.failures.append(failure)
