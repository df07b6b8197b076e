"""A clamd of the tests' own: in a temporary folder, with one signature, that of the EICAR file."""

import hashlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import SEARCHED

# The harmless file that every scanner finds (eicar.org), in halves: this one is not to be found.
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-" + rb"STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
VIRUS = "Win.Test.EICAR_HDB-1"
MOST_BYTES = 2 * 2**20  # that it takes
MOST_SCANNED_BYTES = 2**20

CONFIGURATION = """
Foreground yes
DatabaseDirectory {folder}/database
TemporaryDirectory {folder}
LocalSocket {folder}/clamd.sock
TCPAddr 127.0.0.1
TCPSocket {port}
StreamMaxLength {MOST_BYTES}
MaxFileSize {MOST_SCANNED_BYTES}
AlertExceedsMax yes
"""


@dataclass(frozen=True)
class Daemon:
    """A clamd that runs, and the two addresses that it answers at."""

    process: subprocess.Popen[str]
    folder: Path
    port: int

    @property
    def unix_url(self) -> str:
        return f"unix://{self.folder}/clamd.sock"

    @property
    def tcp_url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@contextmanager
def running_daemon() -> Iterator[Daemon]:
    """A clamd that answers, and is thrown away."""
    program = shutil.which("clamd", path=SEARCHED)
    assert program, "clamd is not installed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    # Not pytest's own folder: the address of a unix socket has room for a hundred characters.
    with tempfile.TemporaryDirectory(prefix="sluice-clamd-") as name:
        folder = Path(name)
        (folder / "database").mkdir()
        digest = hashlib.md5(EICAR, usedforsecurity=False).hexdigest()
        (folder / "database/eicar.hdb").write_text(f"{digest}:{len(EICAR)}:{VIRUS}\n")
        configuration = folder / "clamd.conf"
        values = {"MOST_BYTES": MOST_BYTES, "MOST_SCANNED_BYTES": MOST_SCANNED_BYTES}
        configuration.write_text(CONFIGURATION.format(folder=folder, port=port, **values))
        process = subprocess.Popen(
            [program, f"--config-file={configuration}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        daemon = Daemon(process, folder, port)
        try:
            assert process.stdout
            said = []
            for line in process.stdout:  # until it says that it listens, or ends
                said.append(line)
                if "Self checking" in line:
                    break
            assert process.poll() is None, "".join(said)
            yield daemon
        finally:
            daemon.stop()
