"""A machine that boots: systemd, in namespaces of its own, with a root that is gone with it."""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.machines.network import HUB, Network, laid
from tests.integration.stack import until

BOOT = Path(__file__).with_name("boot.sh")
NAMESPACES = ("mount", "pid", "uts", "ipc", "cgroup")


@dataclass(frozen=True)
class Machine:
    """A machine that has booted. `first` is its first process, as it is numbered here."""

    first: int
    network: Network

    @property
    def root(self) -> Path:
        """Its root folder."""
        return Path(f"/proc/{self.first}/root")

    def run(self, script: str) -> str:
        """Run shell commands on it as root, in the project's folder; return what they print."""
        into = ["nsenter", f"--target={self.first}", "--net", *(f"--{name}" for name in NAMESPACES)]
        shell = ["env", "-i", "PATH=/usr/sbin:/usr/bin", "sh", "-euc", f"cd /opt/sluice\n{script}"]
        done = subprocess.run(
            [*into, *shell],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def has_booted(self) -> bool:
        return (self.root / "run/systemd/private").exists()


def control_groups() -> Path | None:
    """Where the kernel's tree of control groups (version 2) is mounted, and can be written."""
    found = re.findall(r"^\S+ (\S+) cgroup2 rw", Path("/proc/mounts").read_text(), re.MULTILINE)
    return Path(found[0]) if found else None


@contextmanager
def booted(groups: Path) -> Iterator[Machine]:
    """Boot a machine at the hub; in the end nothing of it is left."""
    group = groups / f"sluice-{os.getpid()}"
    with laid() as network, tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        group.mkdir()
        join = ["sh", "-euc", 'echo 0 > "$0/cgroup.procs"; exec "$@"', group]
        enter = [*network.entering(HUB), "setpriv", "--pdeathsig", "KILL"]
        unshare = ["unshare", "--fork", "--kill-child", *(f"--{name}" for name in NAMESPACES)]
        boot = [BOOT, folder, sys.base_prefix, sysconfig.get_path("purelib")]
        with subprocess.Popen([*join, *enter, *unshare, *boot], stdin=subprocess.DEVNULL) as outer:
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            try:
                machine = Machine(int(until(children.read_text, "a first process")), network)
                until(lambda: machine.has_booted() or outer.poll() is not None, "it boots", 30)
                assert outer.poll() is None, "the machine ended while it booted"
                yield machine
            finally:
                for child in children.read_text().split():
                    os.kill(int(child), signal.SIGKILL)  # and with it all that it has started
                outer.wait(30)
                for path in sorted(group.rglob("*/"), reverse=True):
                    path.rmdir()
                group.rmdir()
