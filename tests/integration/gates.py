"""Fixtures for jobs that say that they have begun, and wait until they are told to go on.

A conftest imports them and has a fixture `gate`, made by `gate_of` with its own stack.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from backend.jobs.kinds import JobKind
from tests.integration import probes
from tests.integration.stack import Stack, until


@pytest.fixture
def signs(tmp_path: Path) -> Iterator[Path]:
    """The folder of the signs; all gates are open at the end of the test."""
    yield tmp_path
    (tmp_path / "go").touch()


@pytest.fixture
def begun(signs: Path) -> Callable[..., int]:
    """Wait until an attempt has begun; return the id of its process."""

    def wait(attempt: int = 1, seconds: float = 20) -> int:
        sign = signs / f"begun-{attempt}"
        return int(until(lambda: sign.exists() and sign.read_text(), f"attempt {attempt}", seconds))

    return wait


@pytest.fixture
def go(signs: Path) -> Callable[[], None]:
    """Open the gates."""
    return (signs / "go").touch


def gate_of(stack: Stack, signs: Path) -> Callable[..., UUID]:
    """Submit a job that waits at a gate."""

    def submit(kind: JobKind[..., Any] = probes.gate, **params: Any) -> UUID:
        return stack.submit(kind, folder=str(signs), **params)

    return submit
