"""Real programs for the deployment files: started on free ports, ended with the test."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PATH = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path(), "/usr/sbin"])

Until = Callable[..., None]
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def root() -> Path:
    """The project's root."""
    return ROOT


@pytest.fixture
def deploy() -> Path:
    """The deployment files."""
    return ROOT / "deploy"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables for the programs of a test; nothing of the caller's own gets through but PATH."""
    return {
        "PATH": PATH,
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Give a port of this machine that nothing listens on."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture
def until() -> Until:
    """Wait for a condition, and say which one never came."""

    def wait(condition: Callable[[], object], what: str, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds:g} s: {what}")
            time.sleep(0.05)

    return wait


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start a program whose output goes to `<name>.log`; it is ended with the test."""
    with ExitStack() as stack:

        def run(*command: str | Path, name: str, **options: object) -> subprocess.Popen[bytes]:
            output = stack.enter_context((tmp_path / f"{name}.log").open("ab"))
            settings: dict[str, object] = {"env": environment, "cwd": tmp_path, **options}
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **settings,  # type: ignore[call-overload]
            )
            stack.callback(end, process)
            return process

        yield run


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a program to end, and make it end after a while."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture
def make_certificate(tmp_path: Path) -> Callable[[], Path]:
    """Make `server.crt`, which signs itself, and `server.key` for this machine; give the folder."""

    def make() -> Path:
        folder = tmp_path / "certificate"
        folder.mkdir()
        request = "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
        names = "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
        files = ["-keyout", folder / "server.key", "-out", folder / "server.crt"]
        subprocess.run(
            ["openssl", *request.split(), *names.split(), *files],
            check=True,
            capture_output=True,
        )
        return folder

    return make
