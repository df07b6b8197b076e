"""The data folder: that it is private, whose turn it is, and its settings in `sluice.env`."""

import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

from sluice_stack import StackError

LONGEST_SOCKET = 107  # bytes that a unix socket's address may have (unix(7))
LONGEST_NAME = len("/supervisor.sock.4194304")  # under which supervisord makes its socket
SIGNS = ("sluice.env", "sluice.db", "blobs", "work")  # of a folder that holds our data
OURS = ("SECRET_KEY", "DATA_DIR", "WEB_BIND")
HEADER = (
    "# scripts/up made SECRET_KEY once, and writes the lines after it anew at every start.",
    "# What you add is kept; .env.example lists all settings.",
)


@dataclass(frozen=True)
class DataFolder:
    """Where everything lives that the application keeps, and the places in it."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "sluice.env"

    @property
    def login(self) -> Path:
        return self.path / "login.json"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    @property
    def metrics(self) -> Path:
        return self.path / "run/metrics"

    @property
    def broker(self) -> Path:
        return self.path / "broker"

    @property
    def supervisor(self) -> Path:
        return self.path / "supervisord.conf"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def sockets(self) -> Path:
        """The folder of the sockets: one of the system's where ours has too long a path."""
        here = self.path / "run"
        if len(os.fsencode(here)) + LONGEST_NAME <= LONGEST_SOCKET:
            return here
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}-{name}"

    def claim(self) -> int | None:
        """Make the folder, or refuse one that holds something else; then take its turn."""
        odd = [character for character in '%"\n' if character in str(self.path)]
        if odd:
            raise StackError(
                f"{str(self.path)!r} has {odd[0]!r} in it, which supervisord and the broker cannot"
                " have in a path; name another folder with --data."
            )
        with _plain_errors():
            known = any((self.path / sign).exists() for sign in SIGNS)
            if self.path.exists() and not known and any(self.path.iterdir()):
                raise StackError(
                    f"{self.path} holds other files; name a new or an empty folder with --data."
                )
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
        return self.take()

    def take(self) -> int | None:
        """Take the folder's turn and return the lock's descriptor; None if another has it.

        The lock is held until every process that has inherited the descriptor is gone.
        """
        with _plain_errors():
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def lay_out(self) -> None:
        """Make the folders inside, and forget what the processes of an earlier start counted."""
        with _plain_errors():
            for folder in (self.logs, self.broker, self.metrics.parent, self.metrics):
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
            for counted in self.metrics.glob("*.db"):
                counted.unlink()
            self.sockets.mkdir(mode=0o700, exist_ok=True)
            _check_private(self.sockets)

    def read(self) -> dict[str, str]:
        """The settings in `sluice.env`."""
        if not self.settings.exists():
            return {}
        found = dotenv_values(self.settings, interpolate=False, encoding="utf-8")
        return {name: value for name, value in found.items() if value is not None}

    def write(self, settings: Mapping[str, str]) -> None:
        """Write settings into `sluice.env`, and keep the lines that are not ours."""
        replaced = {*OURS, *settings}
        if is_embedded(self.read().get("REDIS_URL", "")):
            replaced.add("REDIS_URL")
        lines = [*HEADER, *(f"{name}={_quoted(value)}" for name, value in settings.items())]
        if self.settings.exists():
            before = self.settings.read_text(encoding="utf-8").splitlines()
            lines += [line for line in before if line not in HEADER and _name(line) not in replaced]
        part = self.settings.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        part.replace(self.settings)


def is_embedded(redis_url: str) -> bool:
    """Whether an address is that of a broker which an earlier start has started itself."""
    return redis_url.startswith("unix://") and redis_url.endswith("/broker.sock")


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StackError(
            f"The data folder cannot be used: {error.strerror} ({error.filename})."
        ) from None


def _check_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StackError(f"{folder} must be a folder that is yours alone; remove it.")


def _name(line: str) -> str:
    return line.partition("=")[0].removeprefix("export ").strip()


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
