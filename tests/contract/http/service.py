"""A whole application for a test: who calls it, what it keeps, and the work that it has to do."""

import io
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import pikepdf
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse, encode_multipart

from backend.accounts import services as accounts
from backend.accounts import tokens
from backend.accounts.models import UserRole
from backend.app import create_app
from backend.config import Settings
from backend.db import Base, db, transaction
from backend.documents.models import Document
from backend.http.idempotency import IdempotencyKey
from backend.jobs.models import Job
from backend.storage.blobs import store
from backend.storage.models import StoredFile

ROOT = Path(__file__).parents[3]
PDFS = ROOT / "tests" / "fixtures" / "pdf"
SECRET = "a key for tests, of forty characters or so"
PROBLEM = "application/problem+json"
KEPT = (Job, StoredFile, Document, IdempotencyKey)

# What is said of databases and brokers, and limits of which no test must run out.
PLAIN: Mapping[str, Any] = {
    "secret_key": SECRET,
    "celery_broker_url": "memory://",
    "request_limit_per_user": "1000000 per minute",
    "register_limit_per_address": "1000000 per minute",
    "login_limit_per_address": "1000000 per minute",
    "login_limit_per_account": "1000000 per minute",
    "log_level": "error",
}


@dataclass
class Caller:
    """Someone who is signed in, and their client."""

    app: Flask
    id: int
    access_token: str

    @property
    def client(self) -> FlaskClient:
        """A client of their own: threads must not share one."""
        return self.app.test_client()

    @property
    def bearer(self) -> dict[str, str]:
        return bearer(self.access_token)

    def open(self, method: str, path: str, **sent: Any) -> TestResponse:
        """Send a request. A dict as `data` goes as multipart/form-data."""
        headers = {**self.bearer, **sent.pop("headers", {})}
        if isinstance(sent.get("data"), dict):
            boundary, sent["data"] = encode_multipart(sent["data"])
            sent["content_type"] = f"multipart/form-data; boundary={boundary}"
        return self.client.open(path, method=method, headers=headers, **sent)

    def get(self, path: str, **sent: Any) -> TestResponse:
        return self.open("GET", path, **sent)

    def post(self, path: str, **sent: Any) -> TestResponse:
        return self.open("POST", path, **sent)

    def delete(self, path: str, **sent: Any) -> TestResponse:
        return self.open("DELETE", path, **sent)

    def compress(self, *files: bytes | tuple[str, bytes], **fields: Any) -> TestResponse:
        """Send a batch as a form."""
        return self.post("/api/compress/bulk", data=form(*files, **fields))


@dataclass
class Service:
    """An application on a data folder of its own."""

    app: Flask
    settings: Settings
    people: dict[str, Caller] = field(default_factory=dict)

    def sign_in(self, name: str = "ann", role: UserRole = UserRole.USER) -> Caller:
        """Someone who is signed in; the same name is the same person."""
        if name not in self.people:
            with self.app.app_context():
                with transaction() as session:
                    user = accounts.register(
                        session,
                        email=f"{name}@example.com",
                        password_hash="unused",
                        role=role,
                    )
                    family = accounts.start_session(session, user, self.settings.lease * 100)
                pair = tokens.mint(family)
                self.people[name] = Caller(self.app, user.id, pair.access_token)
        return self.people[name]

    def kept(self) -> dict[str, int]:
        """How many rows, blobs and files of uploads there are."""
        with self.app.app_context():
            rows = {
                model.__tablename__: db.session.scalar(select(func.count()).select_from(model)) or 0
                for model in KEPT
            }
            blobs = sum(1 for _ in store().list())
        uploads = self.settings.workspaces / "uploads"
        return {**rows, "blobs": blobs, "uploads": len([*uploads.glob("*")])}

    @contextmanager
    def leaving_nothing_behind(self) -> Iterator[None]:
        """Nothing is kept of what the block asks for."""
        before = self.kept()
        yield
        assert self.kept() == before

    def said(self) -> dict[str, Any]:
        """The settings, as another process can be told them."""
        return {
            **self.settings.model_dump(exclude_unset=True, mode="json"),
            "secret_key": SECRET,
        }


def open_service(data_dir: Path, **own: Any) -> Service:
    """A service whose tables are made."""
    data_dir.mkdir(parents=True, exist_ok=True)
    values = {**PLAIN, "data_dir": data_dir, **own}
    settings = Settings(_env_file=None, **values)
    app = create_app(settings)
    with app.app_context():
        Base.metadata.create_all(db.engine)
    return Service(app, settings)


def close_service(service: Service) -> None:
    with service.app.app_context():
        db.engine.dispose()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def form(*files: bytes | tuple[str, bytes], **fields: Any) -> dict[str, Any]:
    """The fields of a batch; files without a name are called 0.pdf, 1.pdf, …"""
    named = [
        file if isinstance(file, tuple) else (f"{number}.pdf", file)
        for number, file in enumerate(files)
    ]
    return {"files": [a_file(content, name) for name, content in named], **fields}


def a_file(content: bytes, name: str) -> FileStorage:
    return FileStorage(io.BytesIO(content), name)


def small_pdf(text: str = "") -> bytes:
    """A PDF of one empty page; other texts make other contents."""
    with pikepdf.new() as pdf:
        pdf.add_blank_page(page_size=(100, 100))
        if text:
            pdf.docinfo["/Title"] = text
        made = io.BytesIO()
        pdf.save(made, deterministic_id=True)
    return made.getvalue()


def fixture_pdf(name: str) -> bytes:
    return (PDFS / name).read_bytes()


def assert_problem(answer: TestResponse, status: int, code: str | None = None) -> dict[str, Any]:
    """The answer is a problem document to the letter; return it."""
    assert (answer.status_code, answer.content_type) == (status, PROBLEM), answer.text[:500]
    return checked_problem(answer.json, status, code)


def checked_problem(body: Any, status: int, code: str | None = None) -> dict[str, Any]:
    """The members of a problem document are all there, and say what is wrong and no more."""
    assert set(body) == {
        *("type", "title", "status", "detail"),
        *("success", "error", "code", "fields", "request_id"),
    }
    assert (body["status"], body["success"]) == (status, False)
    assert body["error"] == body["detail"] != ""
    assert body["type"] == f"urn:sluice:problem:{body['code']}"
    assert body["request_id"]
    assert isinstance(body["fields"], dict)
    said = json.dumps(body)
    assert len(said) < 3000
    for leak in ("Traceback", "sqlite", "SELECT", "INSERT", "sqlalchemy", "/work", "at 0x"):
        assert leak not in said
    if code is not None:
        assert body["code"] == code, body
    return dict(body)


# ---------------------------------------------------------------- a worker


@dataclass(frozen=True)
class Worker:
    """The one slot of a worker, in a process of its own."""

    process: subprocess.Popen[str]

    def start(self, service: Service, queue: str = "default") -> None:
        """Let it run all that is ready in a queue."""
        order = {"settings": json.dumps(service.said()), "queue": queue}
        self._pipe(self.process.stdin).write(json.dumps(order) + "\n")
        self._pipe(self.process.stdin).flush()

    def finish(self) -> int:
        """Wait until it has run what it was let; how many attempts that took."""
        return int(self._pipe(self.process.stdout).readline())

    def run(self, service: Service, queue: str = "default") -> int:
        """Run all that is ready in a queue, and wait for it."""
        self.start(service, queue)
        return self.finish()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


@contextmanager
def working() -> Iterator[Worker]:
    """A worker for any number of services, one after the other."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.contract.http.worker"],
        cwd=ROOT,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Worker(process)


# ---------------------------------------------------------------- a real server


@dataclass(frozen=True)
class Server:
    """A real gunicorn, and the service whose data it shares."""

    service: Service
    port: int
    process: subprocess.Popen[bytes]

    @property
    def workers(self) -> list[int]:
        """The ids of its worker processes."""
        pid = self.process.pid
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def exchange(self, sent: bytes, *, close: bool = True) -> "RawAnswer":
        """Send raw bytes; with `close`, say that no more will come; read the answer."""
        with self.connect() as wire:
            wire.sendall(sent)
            if close:
                wire.shutdown(socket.SHUT_WR)
            return read_answer(wire)


@dataclass(frozen=True)
class RawAnswer:
    """An HTTP/1.1 answer as it came; status 0 if none did."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def read_answer(wire: socket.socket) -> RawAnswer:
    """Read an answer to its end as its Content-Length says."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = _receive(wire)
        if not chunk:
            return RawAnswer(0, {}, received)
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    wanted = int(headers.get("content-length", 0))
    while len(body) < wanted and (chunk := _receive(wire)):
        body += chunk
    return RawAnswer(int(first.split()[1]), headers, body)


def _receive(wire: socket.socket) -> bytes:
    try:
        return wire.recv(65536)
    except ConnectionResetError:
        return b""


def hang_up(wire: socket.socket) -> None:
    """Close at once with a reset, as a caller that crashed does."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


@contextmanager
def serving(service: Service) -> Iterator[Server]:
    """Serve a service's data folder with a gunicorn on a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = service.settings.data_dir
    said = {**service.said(), "web_bind": f"127.0.0.1:{port}", "web_workers": 1}
    command = [sys.executable, "-m", "gunicorn"]
    command += ["-c", str(ROOT / "deploy" / "gunicorn.conf.py"), "app_v2:app"]
    with (folder / "web.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                **{name.upper(): str(value) for name, value in said.items()},
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_alive(process, port, folder / "web.log")
        yield Server(service, port, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_alive(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the web server did not start:\n{output.read_text()}")
