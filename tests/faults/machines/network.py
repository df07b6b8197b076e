"""Machines: network namespaces, each with one link to a hub, that can be cut off and joined again.

The hub holds what all share. This process has a link to it as well, as an operator's machine has.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = Path("/run/netns")
NAME = "sluice-{pid}-{machine}"
HUB = "hub"


@dataclass(frozen=True)
class Network:
    """The namespaces of this process."""

    machines: Sequence[str]

    @property
    def subnet(self) -> str:
        """Of the addresses set aside for tests between networks (RFC 2544)."""
        return f"198.18.{os.getpid() % 255}"

    @property
    def hub(self) -> str:
        """The address of what all share."""
        return f"{self.subnet}.1"

    def entering(self, machine: str) -> list[str]:
        """The command that starts another on a machine."""
        return ["nsenter", f"--net={NAMESPACES / name_of(machine)}"]

    def cut(self, machine: str) -> None:
        """Take a machine's link down at the hub: packets go nowhere, and nobody is told."""
        ip("-n", name_of(HUB), "link", "set", f"to-{machine}", "down")

    def mend(self, machine: str) -> None:
        ip("-n", name_of(HUB), "link", "set", f"to-{machine}", "up")

    def lay(self) -> None:
        ip("netns", "add", name_of(HUB))
        ip("-n", name_of(HUB), "link", "set", "lo", "up")
        for number, machine in enumerate(self.machines, 2):
            ip("netns", "add", name_of(machine))
            ip("-n", name_of(machine), "link", "set", "lo", "up")
            self._link(f"to-{machine}", number, ["-n", name_of(machine)], "uplink")
        # Named by its process: it is seen in the namespace of all.
        self._link("to-here", 254, [], f"sluice{os.getpid()}")

    def _link(self, near: str, number: int, where: list[str], far: str) -> None:
        """Lay a link from the hub; `where` are ip's options for the other side."""
        address = f"{self.subnet}.{number}"
        target = where[1] if where else str(os.getpid())
        ip("-n", name_of(HUB), "link", "add", near, "type", "veth", "peer", far, "netns", target)
        ip("-n", name_of(HUB), "address", "add", self.hub, "peer", address, "dev", near)
        ip("-n", name_of(HUB), "link", "set", near, "up")
        ip(*where, "address", "add", address, "peer", self.hub, "dev", far)
        ip(*where, "link", "set", far, "up")


@contextmanager
def laid(*machines: str) -> Iterator[Network]:
    """Make the machines; in the end neither they nor what runs on them is left."""
    for path in NAMESPACES.glob(NAME.format(pid="*", machine="*")):
        owner = int(path.name.split("-")[1])
        if not Path(f"/proc/{owner}").exists():  # it was killed, and could not clean up
            remove(path.name)
    network = Network(machines)
    try:
        network.lay()
        yield network
    finally:
        for path in NAMESPACES.glob(NAME.format(pid=os.getpid(), machine="*")):
            remove(path.name)


def name_of(machine: str) -> str:
    return NAME.format(pid=os.getpid(), machine=machine)


def remove(namespace: str) -> None:
    """End what runs in a namespace, and delete it; its links go with it."""
    for pid in ip("netns", "pids", namespace).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    ip("netns", "delete", namespace)


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
