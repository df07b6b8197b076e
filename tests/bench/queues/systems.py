"""The systems that are measured, and how each runs on this machine for a while."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.queues.processes import Broken, Processes
from tests.bench.queues.servers import PostgreSQL, start_broker
from tests.integration.stack import BIN, ROOT, free_port

HERE = "tests.bench.queues"
RIVALS = Path(__file__).parents[1] / "rivals.txt"
SLUICE_CELERY = ("celery", "-A", f"{HERE}.sluice_celery")


@dataclass(frozen=True, kw_only=True)
class System:
    """A system: where its module is, what it needs, and its two worker processes."""

    title: str
    module: str
    workers: Sequence[Sequence[str]]
    broker: str = "redis-server"
    postgresql: bool = False
    package: str = ""  # by whose version it is known; none for Sluice


def _sluice(title: str, broker: str, *, postgresql: bool) -> System:
    return System(
        title=title,
        module="on_sluice",
        broker=broker,
        postgresql=postgresql,
        workers=(
            (
                *SLUICE_CELERY,
                "worker",
                "-Q",
                "high_priority,default",
                "-c",
                "2",
                "-n",
                "default@%h",
            ),
            (*SLUICE_CELERY, "beat"),
        ),
    )


def _celery(title: str, module: str) -> System:
    worker = ("celery", "-A", f"{HERE}.{module}", "worker", "-c", "2", "-n", "bench@%h")
    return System(title=title, module=module, package="celery", workers=(worker,))


def _rq(title: str, worker_class: str) -> System:
    pool = ("rq", "worker-pool", "-q", "-n", "2", "-w", worker_class, "-u", "unix://{}/broker.sock")
    return System(title=title, module="on_rq", package="rq", workers=(pool,))


SYSTEMS: Mapping[str, System] = {
    "sluice-postgresql": _sluice("Sluice, PostgreSQL", "redis-server", postgresql=True),
    "sluice-sqlite": _sluice("Sluice, SQLite", "valkey", postgresql=False),
    "celery": _celery("Celery, Redis results", "on_celery"),
    "celery-late": _celery("Celery, late ack", "on_celery_late"),
    "procrastinate": System(
        title="Procrastinate",
        module="on_procrastinate",
        package="procrastinate",
        postgresql=True,
        workers=(("procrastinate", "--app", f"{HERE}.on_procrastinate.app", "worker", "-c", "1"),)
        * 2,
    ),
    "dramatiq": System(
        title="Dramatiq",
        module="on_dramatiq",
        package="dramatiq",
        workers=(("dramatiq", "--processes", "2", "--threads", "1", f"{HERE}.on_dramatiq"),),
    ),
    "huey": System(
        title="Huey",
        module="on_huey",
        package="huey",
        workers=(("huey_consumer", f"{HERE}.on_huey.huey", "-q", "-k", "process", "-w", "2"),),
    ),
    "rq": _rq("RQ, Worker", "rq.worker.Worker"),
    "rq-simple": _rq("RQ, SimpleWorker", "rq.worker.SimpleWorker"),
}
SLUICE = ("sluice-postgresql", "sluice-sqlite")


@dataclass
class Site:
    """A folder in which a system runs, with its servers and its database."""

    system: System
    bin: Path
    processes: Processes
    numbers: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.processes.folder

    def drive(self, command: str, *numbers: int) -> Any:
        """Do a command of `drive` to the system; return its answer."""
        return self.processes.ask(f"drive-{command}", self.driver(command, *numbers))

    def driver(self, command: str, *numbers: int) -> list[str | Path]:
        """The command line of `drive`."""
        said = [command, *map(str, numbers)]
        return [self.bin / "python", "-m", f"{HERE}.drive", self.system.module, *said]

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start one of the system's programs."""
        program, *arguments = (part.replace("{}", str(self.folder)) for part in command)
        self.processes.start(name, [self.bin / program, *arguments])

    def start_workers(self) -> None:
        """Start the two worker processes."""
        for number, command in enumerate(self.system.workers):
            self.start(f"worker-{number}", command)


@dataclass
class Places:
    """Makes sites: holds the rivals' environment and the one PostgreSQL server."""

    rivals: Path
    postgresql: PostgreSQL
    more: Mapping[str, str] = field(default_factory=dict)  # variables of Sluice's programs

    @contextmanager
    def site(self, name: str, **variables: str) -> Iterator[Site]:
        """A fresh folder, broker and database for a system; all of it goes in the end."""
        system = SYSTEMS[name]
        folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        database = self.postgresql.fresh_database() if system.postgresql else ""
        try:
            (folder / "database").write_text(database)
            bin_folder = self.rivals / "bin" if system.package else BIN
            environment = {
                "PATH": os.pathsep.join([str(bin_folder), *os.get_exec_path()]),
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": str(folder),
                "LANG": "C.UTF-8",
                # RQ's worker writes its database's address to a terminal's width.
                "COLUMNS": "100",
            }
            if not system.package:
                environment |= {**sluice_environment(folder, database), **variables, **self.more}
            with Processes(folder, environment) as processes:
                start_broker(processes, system.broker)
                site = Site(system, bin_folder, processes)
                _migrate(site) if not system.package else site.drive("prepare")
                yield site
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if database:
                self.postgresql.drop(database)


def sluice_environment(folder: Path, database: str) -> dict[str, str]:
    """Sluice's settings, as in production but for what makes a bench possible."""
    return {
        "SECRET_KEY": "a key for a bench, of forty characters or so",
        "DATA_DIR": str(folder / "data"),
        "DATABASE_URL": database,
        "REDIS_URL": f"unix://{folder}/broker.sock",
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "WEB_BIND": f"127.0.0.1:{free_port()}",
        "WEB_WORKERS": "1",
        # One caller asks for all that a thousand would.
        "REQUEST_LIMIT_PER_USER": "1000000 per minute",
        "REGISTER_LIMIT_PER_ADDRESS": "1000 per hour",
    }


def _migrate(site: Site) -> None:
    for name in ("data", "metrics"):
        (site.folder / name).mkdir()
    done = subprocess.run(
        [site.bin / "flask", "--app", f"{HERE}.kinds:web", "db", "upgrade"],
        cwd=ROOT,  # where Alembic looks for the migrations
        env=dict(site.processes.environment),
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Broken(f"the migration failed:\n{done.stderr[-1500:]}")


def versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of what takes part."""
    pinned = dict(re.findall(r"^([a-z]+)\S*?==(\S+)", RIVALS.read_text(), re.MULTILINE))
    found = {
        SYSTEMS[name].package: pinned[SYSTEMS[name].package]
        for name in names
        if SYSTEMS[name].package
    }
    found["python"] = sys.version.split()[0]
    for program in ("redis-server", "postgres"):
        found |= _version_of(program)
    return found


def _version_of(program: str) -> dict[str, str]:
    from tests.postgresql import SEARCHED

    path = shutil.which(program, path=SEARCHED)
    if path is None:
        return {}
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    number = re.search(r"\d+\.\d+(\.\d+)?", said)
    return {program: number.group() if number else said.strip()}
