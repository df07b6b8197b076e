"""A RabbitMQ node of the tests' own: in a temporary folder, on loopback, known to nobody."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kombu import Connection

SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def server_program() -> str:
    """The server's own script: the one on Debian's PATH would change to another user."""
    return str(SCRIPT) if SCRIPT.exists() else shutil.which("rabbitmq-server") or str(SCRIPT)


@dataclass(frozen=True)
class Node:
    """Where a node lives and listens; the ports are of 127.0.0.1.

    Two programs make it: Erlang's port mapper, started first, and the server.
    """

    folder: Path
    port: int
    distribution_port: int
    mapper_port: int

    @property
    def url(self) -> str:
        """The address for CELERY_BROKER_URL."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    @property
    def mapper_command(self) -> list[str]:
        return ["epmd", "-address", "127.0.0.1", "-port", str(self.mapper_port)]

    @property
    def command(self) -> list[str]:
        return [server_program()]

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the server, beside HOME, where Erlang keeps its cookie."""
        return {
            "ERL_EPMD_PORT": str(self.mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "sluice@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.distribution_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            # So the script becomes the server, and a signal reaches it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_START_ARGS": "-noinput -start_epmd false"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def answers(self) -> bool:
        with suppress(OSError), Connection(self.url, connect_timeout=1) as link:
            link.connect()
            return True
        return False

    def purge(self, queues: list[str]) -> None:
        """Have the node forget every message that waits."""
        with Connection(self.url) as link, link.channel() as channel:
            for name in queues:
                channel.queue_purge(name)
