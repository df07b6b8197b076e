"""The application on several machines: what they share on the hub, and a worker on each."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
from psycopg.conninfo import make_conninfo
from sqlalchemy import make_url, select

from backend.db import engine_options
from backend.jobs.kinds import Queue
from backend.jobs.models import Attempt, Job
from tests.faults.machines.network import HUB, Network
from tests.integration.stack import CELERY, Stack, free_port, until

MACHINES = ("north", "south")
SLOTS = 2
BUCKET = "sluice"


@dataclass
class Cluster(Stack):
    """Each machine has a data folder of its own: what they share goes over the network."""

    network: Network = field(kw_only=True)
    redis_port: int = field(default_factory=free_port)
    s3_port: int = field(default_factory=free_port)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **super().environment,
            "REDIS_URL": f"redis://{self.network.hub}:{self.redis_port}/0",
            "STORAGE_URL": f"s3://{BUCKET}/files",
            "STORAGE_ENDPOINT_URL": self.s3,
            "AWS_ACCESS_KEY_ID": "tester",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "WEB_BIND": f"{self.network.hub}:{self.port}",
        }

    @property
    def url(self) -> str:
        return f"http://{self.network.hub}:{self.port}"

    @property
    def s3(self) -> str:
        return f"http://{self.network.hub}:{self.s3_port}"

    @property
    def libpq_address(self) -> str:
        """The database's address with what the application asks of every connection."""
        asked = engine_options(make_url(self.database_url))["connect_args"]["options"]
        return make_conninfo(self.database_url, options=asked)

    def command(self, name: str) -> Sequence[str | Path]:
        if name in MACHINES:
            data = self.data / name
            data.mkdir(exist_ok=True)
            worker = [
                *CELERY,
                "worker",
                "-Q",
                ",".join(Queue),
                "-c",
                str(SLOTS),
                "-n",
                f"{name}@%h",
            ]
            return [*self.network.entering(name), "env", f"DATA_DIR={data}", *worker]
        return [*self.network.entering(HUB), *self._shared(name)]

    def _shared(self, name: str) -> Sequence[str | Path]:
        if name == "s3":
            server = [sys.executable, "-m", "moto.server"]
            return [*server, "-H", self.network.hub, "-p", str(self.s3_port)]
        command = super().command(name)
        if name == "broker":
            program, socket_path = str(command[0]), str(self.folder / "broker.sock")
            listen = ["--bind", self.network.hub, "--port", str(self.redis_port)]
            listen += ["--protected-mode", "no", "--unixsocket", socket_path, "--save", ""]
            return [program, *listen]
        return command

    def make_bucket(self) -> None:
        def made() -> bool:
            with suppress(httpx.TransportError):
                return httpx.put(f"{self.s3}/{BUCKET}", timeout=5).status_code == 200
            return False

        until(made, "the S3 server has a bucket", 60)

    def ready(self) -> bool:
        assert not self.ended(), f"ended by themselves: {self.ended()}\n{self.last_words()}"
        with suppress(httpx.TransportError):
            if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                return all(self.has_reported(name) for name in MACHINES)
        return False

    def machine_of(self, job_id: UUID) -> str:
        return str(self.job(job_id).worker).partition("@")[0]

    def machines_of_children(self, job_id: UUID) -> set[str]:
        """Where the children of a batch ran."""
        with self.ledger() as session:
            query = select(Attempt.worker).join(Job, Job.id == Attempt.job_id)
            found = session.scalars(query.where(Job.parent_id == job_id)).all()
        return {worker.partition("@")[0] for worker in found}
