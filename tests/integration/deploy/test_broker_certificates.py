"""With TLS a broker is trusted for a certificate of its own host, from somebody that is trusted."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backend.config import Settings
from backend.jobs.broker import broker_connection

pytestmark = [pytest.mark.integration, pytest.mark.needs("openssl")]

CERTIFIED, ELSEWHERE = "127.0.0.1", "127.0.0.2"
SCHEMES = ("amqps", "rediss")


@dataclass
class Broker:
    """Something that shows a certificate, and what it is told once it is trusted."""

    certificate: Path
    port: int
    told: list[bytes] = field(default_factory=list)

    def is_trusted(self, scheme: str, host: str, query: str = "") -> bool:
        """Whether the application goes on to speak to it."""
        address = f"{scheme}://user:password@{host}:{self.port}/0?{query}".rstrip("?")
        settings = Settings(_env_file=None, celery_broker_url=address)  # type: ignore[call-arg]
        self.told.clear()
        link = broker_connection(settings.broker_url)
        with link, pytest.raises(link.connection_errors):
            link.transport.establish_connection()  # it never gets an answer
        return any(self.told)


@pytest.fixture
def broker(make_certificate: Callable[[], Path]) -> Iterator[Broker]:
    folder = make_certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with socket.create_server(("0.0.0.0", 0)) as listening:
        broker = Broker(folder / "server.crt", listening.getsockname()[1])

        def serve() -> None:
            with suppress(OSError):
                while True:
                    link, _ = listening.accept()
                    with link, suppress(OSError):
                        link.settimeout(5)
                        with context.wrap_socket(link, server_side=True) as safe:
                            broker.told.append(safe.recv(100))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield broker
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_of_its_host_from_a_known_authority_is_taken(
    broker: Broker, scheme: str
) -> None:
    assert broker.is_trusted(scheme, CERTIFIED, f"ssl_ca_certs={broker.certificate}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_hosts_certificate_is_not(broker: Broker, scheme: str) -> None:
    assert not broker.is_trusted(scheme, ELSEWHERE, f"ssl_ca_certs={broker.certificate}")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_certificate_that_nobody_vouches_for_is_not(broker: Broker, scheme: str) -> None:
    assert not broker.is_trusted(scheme, CERTIFIED)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_who_says_so_takes_any(broker: Broker, scheme: str) -> None:
    assert broker.is_trusted(scheme, ELSEWHERE, "ssl_cert_reqs=none")
