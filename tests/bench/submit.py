"""How fast a submit is answered: one after another, and many at once.

    scripts/bench submit --url http://127.0.0.1:5003 [--pdf FILE] [--one-by-one 100] [--at-once 200]

Each submit is a batch of one PDF, made different by a comment at its end, over a connection of
its own. The requests are built beforehand, so that the client costs the server little.
"""

import json
import socket
import statistics
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import click

SAMPLE = Path(__file__).parents[1] / "fixtures" / "pdf" / "encrypted.pdf"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's status, and the seconds from the first byte sent to the first received."""

    status: int
    seconds: float


def sign_up(url: str) -> str:
    """Register a throw-away account; return its access token."""
    account = {"email": f"bench-{time.time_ns()}@example.org", "password": "a long password"}
    request = urllib.request.Request(  # noqa: S310 - the address is the operator's own
        f"{url}/api/auth/register",
        data=json.dumps(account).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:  # noqa: S310
        token: str = json.load(response)["access_token"]
    return token


def build(token: str, content: bytes, number: int) -> bytes:
    """The bytes of one request."""
    part = (
        f'--B\r\nContent-Disposition: form-data; name="files"; filename="{number}.pdf"\r\n'
        "Content-Type: application/pdf\r\n\r\n"
    ).encode()
    body = part + content + f"\n%{time.time_ns()}-{number}\n".encode() + b"\r\n--B--\r\n"
    head = (
        "POST /api/compress/bulk HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: multipart/form-data; boundary=B\r\n\r\n"
    )
    return head.encode() + body


def send(address: tuple[str, int], request: bytes) -> Answer:
    """Send a request; return how it was answered."""
    started = time.perf_counter()
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(request)
        head = connection.recv(65536)
        seconds = time.perf_counter() - started
        while connection.recv(65536):
            pass
    return Answer(int(head[9:12]), seconds)


def at_once(address: tuple[str, int], requests: list[bytes]) -> tuple[list[Answer], float]:
    """Send all requests at the same moment; return the answers and the seconds to the last."""
    answers: list[Answer] = []
    threads = [
        threading.Thread(target=lambda request=request: answers.append(send(address, request)))
        for request in requests
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, time.perf_counter() - started


@click.command()
@click.option("--url", default="http://127.0.0.1:5003", show_default=True)
@click.option("--pdf", type=click.Path(exists=True, path_type=Path), default=SAMPLE)
@click.option("--one-by-one", "few", default=100, show_default=True)
@click.option("--at-once", "many", default=200, show_default=True)
def main(url: str, pdf: Path, few: int, many: int) -> None:
    """Measure how fast submits are answered."""
    parts, content, token = urlsplit(url), pdf.read_bytes(), sign_up(url)
    address = (parts.hostname or "127.0.0.1", parts.port or 80)
    alone = [send(address, build(token, content, number)) for number in range(few)]
    together, seconds = at_once(address, [build(token, content, few + n) for n in range(many)])
    refused = [answer.status for answer in [*alone, *together] if answer.status != 202]
    times = sorted(answer.seconds * 1000 for answer in alone)
    click.echo(f"a PDF of {len(content)} bytes")
    click.echo(
        f"one by one ({few}): median {statistics.median(times):.1f} ms,"
        f" 95 % under {times[int(0.95 * few)]:.1f} ms"
    )
    click.echo(f"{many} at once: all answered within {seconds:.2f} s")
    click.echo(f"not 202: {len(refused)} {sorted(set(refused))}")


if __name__ == "__main__":
    main()
