"""Redis, Valkey and PostgreSQL for a bench: unix sockets in a temporary folder, safe settings."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

from tests.bench.queues.processes import Broken, Processes
from tests.integration.stack import broker_program
from tests.postgresql import SEARCHED

# As deploy/redis/redis.conf has it: at most a second is lost at a power cut.
REDIS_OPTIONS = (
    *("--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
    *("--maxmemory-policy", "noeviction", "--unixsocket", "broker.sock"),
)
START_SECONDS = 30.0


def start_broker(processes: Processes, program: str) -> None:
    """Start `redis-server` or `valkey` at `broker.sock` of the folder; wait until it answers."""
    processes.start("server-broker", [broker_program(program), *REDIS_OPTIONS])
    until = time.monotonic() + START_SECONDS
    while not _answers(processes.folder / "broker.sock"):
        processes.check()
        if time.monotonic() > until:
            raise Broken(f"{program} does not answer:\n{processes.last_words('server-broker')}")
        time.sleep(0.02)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as link, suppress(OSError):
        link.connect(str(path))
        link.sendall(b"PING\r\n")
        return link.recv(16).startswith(b"+PONG")
    return False


@dataclass
class PostgreSQL:
    """One server for the whole bench, started when it is first needed, with its defaults.

    So a commit is on disk when it returns, unlike on the server of the tests.
    """

    ending: ExitStack
    folder: Path | None = None
    numbers: Iterator[int] = field(default_factory=count)

    def fresh_database(self) -> str:
        """Make an empty database and return its address."""
        if self.folder is None:
            self.folder = self.ending.enter_context(_running_server())
        name = f"bench_{next(self.numbers)}"
        with psycopg.connect(host=str(self.folder), user="postgres", autocommit=True) as link:
            link.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def drop(self, url: str) -> None:
        """Throw a database away; one that is large would slow what comes after it."""
        name = url.partition("@/")[2].partition("?")[0]
        with psycopg.connect(host=str(self.folder), user="postgres", autocommit=True) as link:
            link.execute(f"DROP DATABASE {name} WITH (FORCE)")  # type: ignore[call-overload]
            link.execute("CHECKPOINT")


@contextmanager
def _running_server() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-pg-"))
    # PostgreSQL refuses to run as root; its Debian package has made the user for it.
    owner = "postgres" if os.geteuid() == 0 else None
    if owner:
        os.chown(folder, pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c max_connections=200"

    def run(program: str, *arguments: str) -> None:
        path = shutil.which(program, path=SEARCHED)
        if path is None:
            raise Broken(f"{program} is not installed; without it choose other --systems")
        with (folder / "commands.log").open("ab") as output:
            subprocess.run(
                [path, "-D", str(folder / "data"), *arguments],
                check=True,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                user=owner,
                start_new_session=True,
            )

    try:
        run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8")
        run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={folder / 'log'}")
        try:
            yield folder
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
