"""Row 36: a server is set up and deployed to under systemd, word for word as its guide says."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.load import Load
from tests.faults.machines.booted import Machine, booted, control_groups
from tests.faults.sites import CALLERS, SETTINGS, assert_unnoticed, is_ready
from tests.integration.stack import ROOT, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(400),
    # the last is in systemd's package, as systemd itself is
    pytest.mark.needs(
        "ip", "nsenter", "openssl", "redis-server", "setpriv", "unshare", "systemd-analyze"
    ),
]

CODE = ("app_v2.py", "celery_app.py", "backend", "deploy")
RESTARTED = ("sluice-worker-high", "sluice-worker-default", "sluice-worker-low", "sluice-beat")
PORT = 5003
# What the package of Debian makes when it is installed.
REDIS_FOLDERS = "install -d -o redis -g redis /etc/redis /var/lib/redis /var/log/redis"


def block(document: str, first_words: str) -> str:
    """The commands of a document, from the block that begins with these words."""
    text = (ROOT / document).read_text()
    (found,) = re.findall(rf"^```\n({re.escape(first_words)}.*?)^```$", text, re.M | re.S)
    return str(found)


@pytest.fixture
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    if not request.config.getoption("full"):
        pytest.skip("a machine is booted in the full run alone (--full)")
    if os.geteuid() != 0:
        pytest.skip("only root may boot a machine of its own")
    if (groups := control_groups()) is None:
        pytest.skip("there are no control groups of version 2 here that can be written")
    with booted(groups) as machine:
        try:
            yield machine
        finally:  # pytest shows it with a failure
            print(machine.run("journalctl --no-pager --lines=60 | cut -c 1-300"))  # noqa: T201


def set_up(machine: Machine) -> None:
    """Put the code in place, and do what the guide says for one server."""
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, machine.root / "opt/sluice" / name)
    machine.run(REDIS_FOLDERS)
    machine.run(block("deploy/README.md", "install -d /etc/sluice/redis"))
    own = {**SETTINGS, "WEB_BIND": f"{machine.network.hub}:{PORT}"}
    with (machine.root / "etc/sluice/sluice.env").open("a") as settings:
        settings.writelines(f"{name}={value}\n" for name, value in own.items())
    machine.run(block("docs/deploy.md", "cp deploy/systemd/"))


def first_process(machine: Machine, unit: str) -> str:
    return machine.run(f"systemctl show --property=MainPID --value {unit}").strip()


def web_workers(machine: Machine) -> set[str]:
    first = first_process(machine, "sluice-web")
    return set(machine.run(f"cat /proc/{first}/task/{first}/children").split())


@pytest.mark.row(36)
def test_a_deploy_under_load_fails_no_request_and_charges_no_attempt(
    machine: Machine, tmp_path: Path
) -> None:
    set_up(machine)
    load = Load(f"http://{machine.network.hub}:{PORT}")
    until(lambda: is_ready(load.url), "the machine is ready", 60)
    with load.applied(CALLERS):
        until(lambda: len(load.batches) > CALLERS, "the load is at work", 60)
        web, web_first = web_workers(machine), first_process(machine, "sluice-web")
        before = {unit: first_process(machine, unit) for unit in RESTARTED}
        machine.run(
            block("deploy/README.md", "cd /opt/sluice\nas_sluice()")
            + block("deploy/README.md", "as_sluice .venv/bin/flask --app app_v2 db upgrade &&")
        )
        assert not [unit for unit in RESTARTED if first_process(machine, unit) == before[unit]]
        # The web server's own first process holds the port open.
        assert first_process(machine, "sluice-web") == web_first
        until(lambda: not web_workers(machine) & web, "the former web processes have ended", 40)
        seen = len(load.batches)
        until(lambda: len(load.batches) > seen + CALLERS, "the load goes on", 60)

    machine.run("systemctl stop sluice.target")
    assert machine.run("systemctl --failed --no-legend --plain") == ""
    for file in (machine.root / "var/lib/sluice").glob("sluice.db*"):
        shutil.copy(file, tmp_path)  # SQLite finds its way to no other root
    assert_unnoticed(load, tmp_path / "sluice.db")
