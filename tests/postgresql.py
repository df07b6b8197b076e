"""A PostgreSQL server of the tests' own: in a temporary folder, on a unix socket, thrown away."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
SEARCHED = os.pathsep.join([*os.get_exec_path(), *map(str, DEBIAN)])


@dataclass(frozen=True)
class Server:
    """A server; `fresh_database` gives each test a database of its own.

    It forgets its promises at a power cut, which makes it fast, but not when it is killed. With an
    address it listens there too; `entering` is a command, such as nsenter with the name of a
    network namespace, that each of its programs is started by.
    """

    folder: Path
    address: str = ""
    entering: Sequence[str] = ()
    numbers: Iterator[int] = field(default_factory=count)

    def fresh_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"test_{next(self.numbers)}"
        with self.connect(autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql://postgres@/{name}?host={self.address or self.folder}"

    def connect(self, name: str = "postgres", **options: bool) -> psycopg.Connection:
        """Connect as the server's own user."""
        return psycopg.connect(host=str(self.folder), user="postgres", dbname=name, **options)

    @property
    def pid(self) -> int:
        """The first of its processes."""
        return int((self.folder / "data/postmaster.pid").read_text().splitlines()[0])

    def make(self) -> None:
        """Make the folder of its data."""
        self.run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        if self.address:
            with (self.folder / "data/pg_hba.conf").open("a") as callers:
                callers.write("host all all 198.18.0.0/15 trust\n")

    def start(self) -> None:
        """Start, also after a kill, and wait until it can be connected to."""
        options = (
            f"-c listen_addresses='{self.address}' -c unix_socket_directories='{self.folder}'"
            " -c max_connections=200 -c fsync=off -c full_page_writes=off"
        )
        self.run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={self.folder}/log")

    def stop(self) -> None:
        """End at once and break off every connection, as at a crash."""
        self.run("pg_ctl", "stop", "--wait", "--mode=immediate")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs on the server's folder."""
        path = shutil.which(program, path=SEARCHED)
        assert path, f"{program} is not installed"
        become = ["setpriv", f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups"]
        before = [*self.entering, *(become if OWNER else [])]
        with (self.folder / "commands.log").open("ab") as output:
            subprocess.run(
                [*before, path, "-D", str(self.folder / "data"), *arguments],
                check=True,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )


# PostgreSQL refuses to run as root; its Debian package has made the user for it.
OWNER = "postgres" if os.geteuid() == 0 else None


@contextmanager
def running_server(address: str = "", entering: Sequence[str] = ()) -> Iterator[Server]:
    """A server that runs, and is thrown away."""
    server = Server(Path(tempfile.mkdtemp(prefix="sluice-pg-")), address, entering)
    if OWNER:
        user = pwd.getpwnam(OWNER)
        os.chown(server.folder, user.pw_uid, user.pw_gid)
    try:
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(server.folder, ignore_errors=True)
