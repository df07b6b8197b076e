"""Supervisor, systemd, Docker and the scripts start the same commands, with the same queues."""

import configparser
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.integration.deploy.conftest import Start, Until

pytestmark = pytest.mark.integration

MIGRATE = "flask --app app_v2 db upgrade"
COMMANDS = {
    "web": "gunicorn -c deploy/gunicorn.conf.py app_v2:app",
    "worker-high": "celery -A celery_app worker -Q high_priority -c HIGH_SLOTS -n high@%h",
    "worker-default": "celery -A celery_app worker -Q high_priority,default"
    " -c DEFAULT_SLOTS -n default@%h",
    "worker-low": "celery -A celery_app worker -Q low_priority -c LOW_SLOTS -n low@%h",
    "beat": "celery -A celery_app beat",
}
SLOTS = {"HIGH_SLOTS": "1", "DEFAULT_SLOTS": "2", "LOW_SLOTS": "1"}


def plain(command: str) -> str:
    """A command without what differs from place to place: folders, and how variables are named."""
    program, *arguments = shlex.split(command)
    rest = [
        re.sub(r"^(?:%\(ENV_|\$\{)(\w+)(?:\)s|(?::-\d+)?\})$", r"\1", each) for each in arguments
    ]
    return " ".join([program.rpartition("/")[2], *rest]).replace("%%h", "%h")


def ini(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes="#;")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text())
    return parser


def test_supervisor_starts_them(deploy: Path) -> None:
    programs = ini(deploy / "supervisor/programs.conf")

    found = {
        section.removeprefix("program:sluice-"): plain(programs[section]["command"])
        for section in programs.sections()
        if section.startswith("program:")
    }
    assert found == COMMANDS
    grouped = programs["group:sluice"]["programs"].split(",")
    assert grouped == [f"sluice-{name}" for name in COMMANDS]
    assert f"/{MIGRATE}" in (deploy / "supervisor/sluicectl").read_text().replace('"', "")


def test_supervisor_names_every_variable_that_it_needs(deploy: Path) -> None:
    text = (deploy / "supervisor/programs.conf").read_text()

    listed = set(re.findall(r"^;   ([A-Z_]+) ", text, re.MULTILINE))
    assert set(re.findall(r"%\(ENV_(\w+)\)s", text)) == listed


def test_systemd_starts_them(deploy: Path) -> None:
    units = {
        path.stem.removeprefix("sluice-"): ini(path) for path in deploy.glob("systemd/*.service")
    }

    migrate = units.pop("migrate")["Service"]["ExecStart"]
    assert f"/opt/sluice/.venv/bin/{MIGRATE} && exit 0" in migrate
    assert {name: plain(unit["Service"]["ExecStart"]) for name, unit in units.items()} == COMMANDS
    for name, slots in SLOTS.items():
        (unit,) = [unit for unit in units.values() if name in unit["Service"]["ExecStart"]]
        assert f"{name}={slots}" in unit["Service"]["Environment"].split()


def test_docker_starts_them(deploy: Path) -> None:
    services = yaml.safe_load((deploy / "docker/compose.yaml").read_text())["services"]

    ours = {name: each["command"] for name, each in services.items() if each["image"] == "sluice"}
    assert shlex.join(ours.pop("migrate")) == MIGRATE
    assert {name: plain(shlex.join(command)) for name, command in ours.items()} == COMMANDS
    for name, slots in SLOTS.items():
        assert [c for c in ours.values() if f"${{{name}:-{slots}}}" in c]


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A project with the scripts and a celery that writes down how it is started and stopped."""
    shutil.copytree(root / "scripts", tmp_path / "project/scripts")
    celery = tmp_path / "project/.venv/bin/celery"
    celery.parent.mkdir(parents=True)
    celery.write_text(
        "#!/bin/bash\n"
        'echo "celery $* $(umask)" >> started\n'
        "trap 'echo \"$*\" >> stopped; kill $!; exit' TERM\n"
        "sleep 100 &\n"
        "echo $$ >> ready\n"
        "wait\n"
    )
    celery.chmod(0o755)
    return tmp_path / "project"


def lines(path: Path) -> list[str]:
    return sorted(path.read_text().splitlines()) if path.exists() else []


def as_started(*names: str) -> list[str]:
    commands = [COMMANDS[name] for name in names]
    for name, slots in SLOTS.items():
        commands = [command.replace(name, slots) for command in commands]
    return sorted(f"{command} 0077" for command in commands)


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_the_script_starts_all_and_passes_the_stop_on(
    project: Path, start: Start, until: Until, asked: signal.Signals
) -> None:
    process = start(project / "scripts/start_celery.sh", name="all", cwd=project)
    until(lambda: len(lines(project / "ready")) == 4, "four programs run")

    process.send_signal(asked)

    assert process.wait(20) == 0
    names = ["worker-high", "worker-default", "worker-low", "beat"]
    assert lines(project / "started") == as_started(*names)
    assert len(lines(project / "stopped")) == 4


def test_the_script_starts_the_workers_and_stops_all_when_one_is_gone(
    project: Path, start: Start, until: Until
) -> None:
    process = start(project / "scripts/start_celery_worker.sh", name="workers", cwd=project)
    until(lambda: len(lines(project / "ready")) == 3, "three workers run")
    assert lines(project / "started") == as_started("worker-high", "worker-default", "worker-low")

    subprocess.run(["kill", "-TERM", lines(project / "ready")[0]], check=True)

    assert process.wait(20) == 1
    assert len(lines(project / "stopped")) == 3


@pytest.mark.parametrize("name", ["high", "default", "low"])
def test_the_script_becomes_one_worker(
    project: Path, start: Start, until: Until, name: str
) -> None:
    process = start(project / "scripts/start_celery_worker.sh", name, name=name, cwd=project)
    until(lambda: lines(project / "ready") == [str(process.pid)], "the script is the worker")

    assert lines(project / "started") == as_started(f"worker-{name}")


def test_the_script_refuses_another_name(project: Path, start: Start) -> None:
    process = start(project / "scripts/start_celery_worker.sh", "hihg", name="one", cwd=project)

    assert process.wait(10) == 2
    assert not lines(project / "started")
