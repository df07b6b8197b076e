"""The blob stores under contract: a folder, and a bucket of a real S3 server on loopback."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend.config import Settings
from backend.storage.blobs import Blobs, open_store

START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server in a process of its own, so that its memory is not counted as ours."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    port = endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(endpoint, server)
            yield endpoint
        finally:
            server.terminate()


def _wait_for(endpoint: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            httpx.get(f"{endpoint}/moto-api/")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"the S3 server did not answer within {START_SECONDS} seconds")


def in_bucket(url: str, endpoint: str) -> Settings:
    """Settings as a file has them; nothing of them stands in the environment."""
    return Settings(
        _env_file=None,
        storage_url=url,
        storage_endpoint_url=endpoint,
        aws_access_key_id="tester",
        aws_secret_access_key="secret",
    )


@pytest.fixture
def s3_settings(s3_endpoint: str) -> Settings:
    httpx.post(f"{s3_endpoint}/moto-api/reset").raise_for_status()
    httpx.put(f"{s3_endpoint}/sluice-test").raise_for_status()
    return in_bucket("s3://sluice-test/files", s3_endpoint)


@pytest.fixture(params=["file", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    if request.param == "s3":
        found = request.getfixturevalue("s3_settings")
        assert isinstance(found, Settings)
        return found
    return Settings(_env_file=None, storage_url=(tmp_path / "blob store").as_uri())


@pytest.fixture
def blobs(settings: Settings) -> Blobs:
    return open_store(settings)


@pytest.fixture(params=["file", "s3"])
def unreachable(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """A store that was there when it was opened, and is not any more."""
    if request.param == "s3":
        return open_store(in_bucket("s3://b", f"http://127.0.0.1:{free_port()}"))
    root = tmp_path / "unmounted"
    blobs = open_store(Settings(_env_file=None, storage_url=root.as_uri()))
    root.rmdir()
    root.write_bytes(b"not a folder any more")
    return blobs
