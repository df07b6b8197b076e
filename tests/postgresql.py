"""A PostgreSQL server of the tests' own: in a temporary folder, on a unix socket, thrown away."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
SEARCHED = os.pathsep.join([*os.get_exec_path(), *map(str, DEBIAN)])


@dataclass(frozen=True)
class Server:
    """A running server; `fresh_database` gives each test a database of its own."""

    folder: Path
    numbers: Iterator[int] = field(default_factory=count)

    def fresh_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"test_{next(self.numbers)}"
        with psycopg.connect(host=str(self.folder), user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
        return f"postgresql://postgres@/{name}?host={self.folder}"


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server that forgets its promises at a power cut, which makes it fast."""
    folder = Path(tempfile.mkdtemp(prefix="sluice-pg-"))
    # PostgreSQL refuses to run as root; its Debian package has made the user for it.
    owner = "postgres" if os.geteuid() == 0 else None
    if owner:
        os.chown(folder, pwd.getpwnam(owner).pw_uid, pwd.getpwnam(owner).pw_gid)
    options = (
        f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c max_connections=200"
        " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
    )

    def run(program: str, *arguments: str) -> None:
        path = shutil.which(program, path=SEARCHED)
        assert path, f"{program} is not installed"
        with (folder / "commands.log").open("ab") as output:
            subprocess.run(
                [path, "-D", str(folder / "data"), *arguments],
                check=True,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                user=owner,
            )

    try:
        run("initdb", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        run("pg_ctl", "start", "--wait", f"--options={options}", f"--log={folder / 'log'}")
        try:
            yield Server(folder)
        finally:
            run("pg_ctl", "stop", "--wait", "--mode=immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
