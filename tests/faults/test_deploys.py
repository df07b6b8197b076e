"""Row 36: everything is started anew under load, by supervisord, and nobody notices."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.load import Load
from tests.faults.sites import CALLERS, SETTINGS, assert_unnoticed, is_ready
from tests.integration.stack import BIN, ROOT, broker_program, free_port, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

SLUICECTL = ROOT / "deploy/supervisor/sluicectl"
PROGRAMS = 5


@dataclass(frozen=True)
class Site:
    """A server's supervisord, run as deploy/supervisor has it."""

    process: subprocess.Popen[bytes]
    variables: dict[str, str]
    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ctl(self, *arguments: str) -> str:
        done = subprocess.run(
            [SLUICECTL, *arguments],
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout

    def pids(self) -> set[str]:
        """The processes of the programs that run."""
        lines = [line.split() for line in self.ctl("status").splitlines()]
        return {line[3].rstrip(",") for line in lines if line[1:2] == ["RUNNING"]}

    def web_workers(self) -> set[str]:
        master = self.ctl("pid", "sluice:sluice-web").strip()
        return set(Path(f"/proc/{master}/task/{master}/children").read_text().split())


@pytest.fixture
def site() -> Iterator[Site]:
    """Everything under supervisord, on SQLite with a broker on a socket."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as name:
        folder, port = Path(name), free_port()
        settings = {
            **SETTINGS,
            "DATA_DIR": folder / "data",
            "REDIS_URL": f"unix://{folder}/broker.sock",
            "WEB_BIND": f"127.0.0.1:{port}",
            "SLUICE_VENV": sys.prefix,
        }
        env_file = folder / "sluice.env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        variables = {
            "PATH": f"{BIN}:/usr/bin:/bin",
            "HOME": name,
            "LANG": "C.UTF-8",
            "SLUICE_ENV_FILE": str(env_file),
            "SLUICE_VENV": sys.prefix,
        }
        broker = [broker_program("valkey"), "--port", "0", "--save", ""]
        broker += ["--unixsocket", f"{folder}/broker.sock"]
        with (
            (folder / "output").open("wb") as output,
            subprocess.Popen(broker, stdout=output) as server,
            subprocess.Popen(
                [SLUICECTL, "run"], env=variables, stdout=output, stderr=output
            ) as process,
        ):
            site = Site(process, variables, folder, port)
            try:
                until(lambda: len(site.pids()) == PROGRAMS, "all programs run", 90)
                until(lambda: is_ready(site.url), "the site is ready", 60)
                yield site
            finally:
                process.terminate()
                process.wait(90)
                server.terminate()


@pytest.mark.row(36)
def test_a_deploy_under_load_fails_no_request_and_charges_no_attempt(site: Site) -> None:
    load = Load(site.url)
    with load.applied(CALLERS):
        until(lambda: len(load.batches) > CALLERS, "the load is at work", 60)
        programs, web = site.pids(), site.web_workers()
        said = site.ctl("deploy")
        assert said.count("RUNNING") == PROGRAMS, said
        # All but the web server's own first process, which holds the port open.
        assert len(site.pids() - programs) == PROGRAMS - 1
        until(lambda: not site.web_workers() & web, "the former web processes have ended", 40)
        before = len(load.batches)
        until(lambda: len(load.batches) > before + CALLERS, "the load goes on", 60)

    assert_unnoticed(load, site.folder / "data/sluice.db")
