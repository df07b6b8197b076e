"""A stack whose every part can be stopped, killed, frozen and starved, and the check after it."""

import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import redis
from sqlalchemy import delete, select

from backend.clock import utc_now
from backend.db import transaction
from backend.jobs import submit_batch
from backend.jobs.batches import Child
from backend.jobs.kinds import JobKind, Queue
from backend.jobs.models import Job, Pause, PauseScope
from backend.jobs.states import ENDED
from tests import invariants
from tests.integration import probes
from tests.integration.stack import (
    BIN,
    PROGRAMS,
    SPARE,
    WORKERS,
    Stack,
    TimeIsOver,
    until,
)
from tests.postgresql import Server

# What the table of faults names, for the rows that are about these times and for the full run.
NAMED = {
    "LEASE_SECONDS": "15",
    "HEARTBEAT_SECONDS": "5",
    "RECONCILE_SECONDS": "5",
    "CANCEL_GRACE_SECONDS": "2",
    "DEPLOY_GRACE_SECONDS": "2",
}
# Where only the order of events matters.
SHORT = {
    "LEASE_SECONDS": "4",
    "HEARTBEAT_SECONDS": "1",
    "RECONCILE_SECONDS": "1",
    "CANCEL_GRACE_SECONDS": "1",
    "DEPLOY_GRACE_SECONDS": "1",
}
DISK_BYTES = 96 * 2**20
# Of a program at most so many processes: its first, and for each slot a watcher and an attempt.
MOST_PROCESSES = {
    "broker": 1,
    "web": 3,
    "beat": 1,
    **{name: 1 + 2 * slots for name, (_, slots) in {**WORKERS, **SPARE}.items()},
}
# Two web processes keep up to ten connections each, for the next requests.
KEPT_CONNECTIONS = 20


@dataclass
class Bench(Stack):
    """A stack with faults. `server` is its own PostgreSQL server; None with SQLite."""

    server: Server | None = None
    accepted: set[UUID] = field(default_factory=set)
    deleted: set[UUID] = field(default_factory=set)
    connections_at_first: int = 0
    web_was_killed: bool = False

    @property
    def lease(self) -> float:
        return float(self.times["LEASE_SECONDS"])

    @property
    def heartbeat(self) -> float:
        return float(self.times["HEARTBEAT_SECONDS"])

    @property
    def grace(self) -> float:
        """Seconds, of a cancel and of a deploy alike."""
        return float(self.times["CANCEL_GRACE_SECONDS"])

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "REGISTER_LIMIT_PER_ADDRESS": "1000 per minute"}

    def command(self, name: str) -> Sequence[str | Path]:
        """As of every stack; beats besides the first have schedules of their own."""
        if name.startswith("beat-"):
            return [BIN / "celery", "-A", "tests.faults.schedule_celery", "beat"]
        return super().command(name)

    # ------------------------------------------------------------ from nothing to nothing

    @contextmanager
    def running(self) -> Iterator["Bench"]:
        """Everything running; in the end nothing is left."""
        with self.disk():
            self.migrate()
            self.open_ledger()
            try:
                self.start(*PROGRAMS)
                try:
                    until(self.ready, "the stack is ready", 60)
                except TimeIsOver as late:
                    raise AssertionError(f"{late}\n{self.last_words()}") from None
                self.connections_at_first = self.connections()
                yield self
            finally:
                self.thaw_all()
                left = self.stop()
                self.close_ledger()
            assert left == []

    @contextmanager
    def disk(self) -> Iterator[None]:
        """The data folder, as root on a small file system of its own."""
        self.data.mkdir()
        if os.geteuid() != 0:
            yield
            return
        size = f"size={DISK_BYTES},mode=700"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", self.data], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", self.data], check=True)

    # ------------------------------------------------------------ jobs

    def submit(
        self, kind: JobKind[..., Any], *, owner_id: int | None = None, **params: Any
    ) -> UUID:
        """Submit a job, and remember that it was accepted."""
        job_id = super().submit(kind, owner_id=owner_id, **params)
        self.accepted.add(job_id)
        return job_id

    def submit_batch(
        self, each: JobKind[..., Any], children: list[Child], *, owner_id: int | None = None
    ) -> UUID:
        """Submit a batch with the closing step of the probes."""
        with self.app.app_context(), transaction() as session:
            job_id = submit_batch(session, probes.close, owner_id, each, children).id
        self.accepted.add(job_id)
        return job_id

    def runs(self, job_id: UUID) -> list[tuple[int, int]]:
        """The attempts that have begun: number and process of each."""
        return [(attempt, pid) for found, attempt, pid in self._begun() if found == job_id]

    def _begun(self) -> list[tuple[UUID, int, int]]:
        path = self.folder / probes.BEGUN
        lines = path.read_text().splitlines() if path.exists() else []
        found = [line.split() for line in lines]
        return [(UUID(job_id), int(attempt), int(pid)) for job_id, attempt, pid in found]

    # ------------------------------------------------------------ faults of processes

    def tree(self, name: str) -> list[int]:
        """A program's processes, the first first."""
        return [pid for pid in self.processes() if self._program_of(pid) == name]

    def _program_of(self, pid: int) -> str:
        firsts = {program.pid: name for name, program in self.programs.items()}
        while pid > 1:
            if pid in firsts:
                return firsts[pid]
            pid = parent_of(pid)
        return ""

    def freeze(self, name: str) -> None:
        """SIGSTOP to all of a program's processes."""
        for pid in [self.programs[name].pid, *self.tree(name)]:
            _send(pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        for pid in [*self.tree(name), self.programs[name].pid]:
            _send(pid, signal.SIGCONT)

    def kill(self, name: str) -> None:
        super().kill(name)
        self.web_was_killed |= name == "web"

    def thaw_all(self) -> None:
        for pid in self.processes():
            _send(pid, signal.SIGCONT)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        self.freeze(name)
        try:
            yield
        finally:
            self.thaw(name)

    @contextmanager
    def killed(self, name: str) -> Iterator[None]:
        """Kill a program's first process, and start the program again in the end."""
        self.kill(name)
        try:
            yield
        finally:
            self.start(name)

    # ------------------------------------------------------------ faults of the broker

    @property
    def redis(self) -> redis.Redis:
        """A client of the broker's server."""
        return redis.Redis(unix_socket_path=f"{self.folder}/broker.sock", socket_timeout=5)

    @contextmanager
    def broker_full(self) -> Iterator[None]:
        """The broker takes no more: it is out of memory, and may evict nothing."""
        self.redis.config_set("maxmemory-policy", "noeviction")
        self.redis.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self.redis.config_set("maxmemory", 0)

    @contextmanager
    def paused(self, queue: Queue) -> Iterator[None]:
        """Nothing is claimed from a queue."""
        of_queue = (Pause.scope == PauseScope.QUEUE, Pause.name == queue)
        with self.app.app_context(), transaction() as session:
            session.add(Pause(scope=PauseScope.QUEUE, name=queue, paused_at=utc_now()))
        try:
            yield
        finally:
            with self.app.app_context(), transaction() as session:
                session.execute(delete(Pause).where(*of_queue))

    # ------------------------------------------------------------ faults of the database

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Somebody else holds the ledger's lock."""
        if self.server is not None:
            with self.server.connect(self.database_name) as connection:
                connection.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
                yield
                connection.rollback()
            return
        file = sqlite3.connect(self.data / "sluice.db", isolation_level=None, timeout=15)
        try:
            file.execute("BEGIN IMMEDIATE")
            yield
        finally:
            file.close()

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """PostgreSQL has crashed; SQLite, which cannot, is locked by somebody else."""
        if self.server is None:
            with self.locked():
                yield
            return
        self.server.stop()
        try:
            yield
        finally:
            self.server.start()

    @contextmanager
    def database_frozen(self) -> Iterator[None]:
        """PostgreSQL's processes stand still."""
        assert self.server is not None
        first = self.server.pid
        pids = [first, *[pid for pid in _all_pids() if parent_of(pid) == first]]
        for pid in pids:
            _send(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                _send(pid, signal.SIGCONT)

    @property
    def database_name(self) -> str:
        return self.database_url.partition("@/")[2].partition("?")[0]

    def connections(self) -> int:
        """How many connections to the database the stack's processes hold."""
        if self.server is not None:
            query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
            with self.server.connect(self.database_name) as own:
                mine = own.info.backend_pid
                row = own.execute(query, (self.database_name, mine)).fetchone()
                return int(row[0]) if row else 0
        path = str(self.data / "sluice.db")
        return sum(_open_files(pid)[path] for pid in self.processes())

    # ------------------------------------------------------------ faults of the machine

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        """There is no room left in the data folder."""
        filler = self.data / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 2**16)
        try:
            yield
        finally:
            filler.unlink()

    # ------------------------------------------------------------ the check

    def recover(self) -> None:
        """Bring back what a test has ended, and end what it has started besides."""
        self.thaw_all()
        if self.web_was_killed:
            # What it was just receiving stays for an hour, and is swept then.
            for upload in (self.data / "work/uploads").glob("upload-*"):
                upload.unlink()
            self.web_was_killed = False
        for name in set(self.programs) - set(PROGRAMS):
            self.kill(name)
            del self.programs[name]
        self.start(*[name for name in PROGRAMS if name in self.ended()])
        until(self.ready, "the stack is ready again", 40)

    def check(self, seconds: float = 60) -> None:
        """Assert that every job has ended as it should, and that nothing is left."""
        try:
            until(self.is_idle, "every job has ended", seconds)
        except TimeIsOver:
            with self.ledger() as session:
                active = session.scalars(select(Job).where(Job.state.not_in(ENDED)).limit(5)).all()
            told = [f"{job.kind} {job.id} {job.state} of {job.worker}" for job in active]
            raise AssertionError(f"not ended within {seconds:g} s: {told}") from None
        with suppress(TimeIsOver):
            until(lambda: not self.faults(), "nothing is left", 8)
        assert self.faults() == []

    def faults(self) -> list[str]:
        """Every rule that is broken just now, as a sentence."""
        with self.ledger() as session:
            session.expire_all()
            there = set(session.scalars(select(Job.id)))
            found = [
                *invariants.broken(session),
                *invariants.wrong_effects(session, probes.EFFECT, probes.STEP),
            ]
        missing = self.accepted - self.deleted - there
        found += [f"{job_id} was accepted and is not there" for job_id in missing]
        begun = Counter((job_id, attempt) for job_id, attempt, _ in self._begun())
        found += [f"{run} has begun {count} times" for run, count in begun.items() if count > 1]
        scratch = [path for path in (self.data / "work").rglob("*") if path.is_file()]
        found += [f"left in the scratch folder: {path}" for path in scratch]
        found += self._strange_processes()
        if (now := self.connections()) > self.connections_at_first + KEPT_CONNECTIONS:
            found.append(f"{now} database connections, at first {self.connections_at_first}")
        return found

    def _strange_processes(self) -> list[str]:
        found = []
        running = Counter()
        for pid in self.processes():
            name, command = self._program_of(pid), _command(pid)
            running[name] += 1
            if not name:
                found.append(f"without a program that it belongs to: {pid} {command}")
            elif Path(command.split(" ")[0]).name not in KNOWN and "server" not in command:
                found.append(f"started by a job and left: {pid} {command}")
        return found + [
            f"{name} has {count} processes"
            for name, count in running.items()
            if name in MOST_PROCESSES and count > MOST_PROCESSES[name]
        ]


KNOWN = {"python", "python3", "python3.11", "[celeryd:", "celery", "gunicorn:"}


@contextmanager
def all_of(*faults: Callable[[], Any]) -> Iterator[None]:
    """Several faults at once."""
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault())
        yield


def parent_of(pid: int) -> int:
    """A process's parent; 0 once it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def elapsed(call: Callable[[], Any]) -> tuple[float, Any]:
    """How many seconds a call took, and what it returned."""
    started = time.monotonic()
    found = call()
    return time.monotonic() - started, found


def memory_of(pids: list[int]) -> int:
    """The bytes that processes hold for themselves and share with nobody."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return total * 1024


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def _open_files(pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            found[str(link.readlink())] += 1
    return found
