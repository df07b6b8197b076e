"""The two commands as a new user runs them, and the calls of the README on the result."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
SECONDS = 60.0

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class Up:
    """A stack that scripts/up has started, and what it printed."""

    data: Path
    port: int
    said: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def environment(**more: str) -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG")
    return {
        **{name: os.environ[name] for name in kept if name in os.environ},
        "SLUICE_VENV": sys.prefix,
        **more,
    }


def run(*command: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def members(data: Path) -> dict[int, str]:
    """The processes of a stack, known by their environment: the id and the command of each."""
    mark = os.fsencode(f"SLUICE_STACK={data}")
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().decode()
        except OSError:
            continue
    return found


def wait_for(condition: object, what: str) -> None:
    until = time.monotonic() + SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, f"{what} did not come within {SECONDS:g} seconds"
        time.sleep(0.1)


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    data, port = tmp_path_factory.mktemp("a stack") / "my data", free_port()
    started = run("scripts/up", "--detach", "--port", port, "--data", data)
    try:
        assert started.returncode == 0, started.stdout
        yield Up(data, port, started.stdout)
    finally:
        stopped = run("scripts/down", "--data", data)
    assert stopped.stdout.startswith("Stopped"), stopped.stdout
    assert members(data) == {}


def test_the_first_start_compresses_the_samples_and_says_where_everything_is(up: Up) -> None:
    for name in ("photo.pdf", "scan-gray.pdf", "scan-1bit.pdf", "office.pdf", "form.pdf"):
        assert re.search(rf"{name}.* kB .* kB .* %", up.said), up.said
    assert up.url in up.said
    assert (up.data / "samples/compressed.zip").stat().st_size > 0


def test_files_are_compressed_through_the_api(up: Up, tmp_path: Path) -> None:
    fixtures = ROOT / "tests/fixtures/pdf"
    done = run(
        "scripts/compress",
        fixtures / "photo.pdf",
        fixtures / "broken.pdf",
        "--data",
        up.data,
        "--to",
        tmp_path / "small",
        "--level",
        "high",
    )
    assert done.returncode == 1, done.stdout  # one of the two could not be compressed
    assert re.search(r"photo.pdf .* kB .* kB .* 95 %", done.stdout), done.stdout
    assert "damaged" in done.stdout
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["photo.pdf"]


def test_without_a_login_the_way_to_one_is_named(tmp_path: Path) -> None:
    done = run("scripts/compress", ROOT / "tests/fixtures/pdf/photo.pdf", "--data", tmp_path)
    assert done.returncode == 1
    assert "start Sluice by scripts/up" in done.stdout


def test_the_login_is_in_a_file_of_the_user_alone_and_works(up: Up) -> None:
    path = up.data / "login.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    login = json.loads(path.read_text())
    assert login["url"] == up.url
    answer = httpx.post(
        f"{login['url']}/api/auth/login",
        json={"email": login["email"], "password": login["password"]},
    )
    assert answer.json()["user"]["role"] == "admin"


def test_all_that_is_kept_is_the_users_alone(up: Up) -> None:
    for path in [up.data, *up.data.rglob("*")]:
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode):
            assert mode & 0o077 == 0, f"{path} has mode {stat.filemode(mode)}"


def test_a_second_up_says_that_it_runs_already_and_where(up: Up) -> None:
    second = run("scripts/up", "--detach", "--port", free_port(), "--data", up.data)
    assert second.returncode == 1
    assert f"running already at {up.url}" in second.stdout


def test_a_taken_port_is_named(up: Up, tmp_path: Path) -> None:
    other = run("scripts/up", "--detach", "--port", up.port, "--data", tmp_path / "other")
    assert other.returncode == 1
    assert f"Port {up.port} cannot be used" in other.stdout
    assert members(tmp_path / "other") == {}


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    wrong = run(
        *("scripts/up", "--detach", "--port", free_port(), "--data", tmp_path / "data"),
        WEB_THREADS="abc",
    )
    assert wrong.returncode == 1
    assert "WEB_THREADS is 'abc'" in wrong.stdout
    assert "Traceback" not in wrong.stdout


def test_down_where_nothing_runs_says_so(tmp_path: Path) -> None:
    idle = run("scripts/down", "--data", tmp_path / "nothing")
    assert idle.returncode == 0
    assert "Nothing runs" in idle.stdout


def test_every_process_that_is_killed_comes_back(up: Up) -> None:
    for name in ("valkey-server", "gunicorn", "high@", "default@", "low@", "beat"):
        before = {pid for pid, command in members(up.data).items() if name in command}
        assert before, f"no process of {name}"
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_for(
            lambda name=name, before=before: any(
                name in command and pid not in before for pid, command in members(up.data).items()
            ),
            f"a new {name}",
        )
        wait_for(lambda: is_ready(up.url), f"readiness after {name}")


def readme_calls() -> str:
    """The README's shell blocks, in order, as one script."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    assert len(blocks) >= 5
    return "set -euo pipefail\n" + "\n".join(blocks)


def test_the_calls_of_the_readme_do_what_it_says(up: Up, tmp_path: Path) -> None:
    script = readme_calls().replace("var/login.json", f"{up.data}/login.json")
    script = script.replace("tests/fixtures", f"{ROOT}/tests/fixtures")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "event: end" in done.stdout
    assert (tmp_path / "compressed.zip").read_bytes().startswith(b"PK")
