"""The units, read by systemd's own checker in a throw-away root: nothing is started."""

import configparser
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.needs("systemd-analyze")]

SYSTEM = Path("/lib/systemd/system")
UNITS = "etc/systemd/system"


@pytest.fixture
def machine(deploy: Path, tmp_path: Path) -> Path:
    """A root folder in which the units and the programs that they start are installed."""
    machine = tmp_path / "machine"
    shutil.copytree(deploy / "systemd", machine / UNITS)
    (machine / "lib/systemd/system").mkdir(parents=True)
    for unit in [*SYSTEM.glob("*.target"), *SYSTEM.glob("*.slice")]:
        shutil.copy(unit, machine / "lib/systemd/system")
    for program in ("celery", "flask", "gunicorn"):
        install(machine / "opt/sluice/.venv/bin" / program)
    install(machine / "bin/sh")
    install(machine / "bin/kill")
    return machine


def install(program: Path) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)


def names(machine: Path) -> list[str]:
    return sorted(
        path.name for path in (machine / UNITS).iterdir() if path.suffix in {".service", ".target"}
    )


def analyze(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", arguments[0], f"--root={machine}", *arguments[1:]],
        capture_output=True,
        text=True,
        check=False,
    )


def test_systemd_reads_every_unit_without_a_word(machine: Path) -> None:
    verified = analyze(machine, "verify", *names(machine))

    assert (verified.stderr, verified.returncode) == ("", 0)


def test_the_checker_would_have_seen_a_mistake_in_the_shared_part(machine: Path) -> None:
    shared = machine / UNITS / "sluice-.service.d/10-common.conf"
    shared.write_text(shared.read_text() + "NoSuchSetting=1\n")

    assert "NoSuchSetting" in analyze(machine, "verify", "sluice-beat.service").stderr


def test_every_service_is_confined(machine: Path) -> None:
    for unit in names(machine):
        if unit.endswith(".service"):
            judged = analyze(machine, "security", "--offline=true", "--threshold=15", unit)
            assert judged.returncode == 0, judged.stdout


def test_every_service_belongs_to_the_target(deploy: Path) -> None:
    for path in (deploy / "systemd").glob("*.service"):
        if path.name != "sluice-migrate.service":
            assert read(path)["Install"]["WantedBy"] == "sluice.target"


def test_stopping_leaves_room_for_the_grace_of_a_deploy(deploy: Path) -> None:
    shared = read(deploy / "systemd/sluice-.service.d/10-common.conf")
    assert shared["Service"]["KillMode"] == "mixed"
    for path in (deploy / "systemd").glob("sluice-worker-*.service"):
        service = read(path)["Service"]
        assert int(service["TimeoutStopSec"]) >= 35


def read(path: Path) -> configparser.RawConfigParser:
    """Read a unit; where a key comes twice the later one is kept, which is enough here."""
    unit = configparser.RawConfigParser(strict=False, delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    return unit


@pytest.mark.needs("systemd-sysusers", "systemd-tmpfiles")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders to another user")
def test_the_user_and_the_folders_are_made(deploy: Path, tmp_path: Path) -> None:
    settings = tmp_path / "etc/sluice/sluice.env"
    settings.parent.mkdir(parents=True)
    settings.touch(0o600)
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / f"usr/lib/{kind}.d"
        folder.mkdir(parents=True)
        shutil.copy(deploy / f"systemd/sluice.{kind}.conf", folder / "sluice.conf")

    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        made = subprocess.run(
            [*command, f"--root={tmp_path}", "sluice.conf"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr

    users = (tmp_path / "etc/passwd").read_text()
    assert re.search("^sluice:.*:/var/lib/sluice:/usr/sbin/nologin$", users, re.MULTILINE)
    data = (tmp_path / "var/lib/sluice").stat()
    assert stat.S_IMODE(data.st_mode) == 0o700
    assert f":{data.st_uid}:{data.st_gid}:" in users
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    assert (settings.stat().st_uid, settings.stat().st_gid) == (0, data.st_gid)
    # The broker's server, which is none of the application's users, has its part of it.
    assert stat.S_IMODE(settings.parent.stat().st_mode) == 0o755
