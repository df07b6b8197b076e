"""Applications without a Redis: what is waited for, the ledger tells."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.accounts.models import UserRole
from backend.config import Settings
from tests.contract.http.service import (
    Caller,
    Server,
    Service,
    Worker,
    close_service,
    open_service,
    serving,
    working,
)

OpenService = Callable[..., Service]


@pytest.fixture(scope="session", autouse=True)
def no_surroundings() -> Iterator[None]:
    """What this machine's environment says of databases and brokers is not for tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    with working() as found:
        yield found


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[OpenService]:
    """Make a service with some settings of its own."""
    made: list[Service] = []

    def make(**own: Any) -> Service:
        made.append(open_service(tmp_path / str(len(made)), **own))
        return made[-1]

    yield make
    for service in made:
        close_service(service)


@pytest.fixture
def service(make_service: OpenService) -> Service:
    return make_service()


@pytest.fixture
def ann(service: Service) -> Caller:
    return service.sign_in("ann")


@pytest.fixture
def bob(service: Service) -> Caller:
    return service.sign_in("bob")


@pytest.fixture
def root(service: Service) -> Caller:
    """An administrator."""
    return service.sign_in("root", UserRole.ADMIN)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service for tests that leave nothing behind in it; its limits are small."""
    service = open_service(
        tmp_path_factory.mktemp("shared"),
        max_request_bytes=3_000_000,
        max_json_bytes=1_000_000,
        max_file_bytes=1_000_000,
        max_batch_files=1000,
        max_streams=3,
        web_threads=8,
    )
    yield service
    close_service(service)


@pytest.fixture(scope="module")
def server(shared: Service) -> Iterator[Server]:
    """A real server over the shared service's data."""
    with serving(shared) as found:
        yield found
