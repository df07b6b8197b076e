"""A real application on a real SQLite file, with limits counted in memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from backend.app import create_app
from backend.config import Settings
from backend.db import Base, db

SECRET = "a key for tests, of forty characters or so"
PASSWORD = "correct horse"


@dataclass(frozen=True)
class Person:
    """Someone who has registered, and the tokens that they hold."""

    client: FlaskClient
    email: str
    access_token: str
    refresh_token: str

    def get_me(self) -> TestResponse:
        return self.client.get("/api/auth/me", headers=bearer(self.access_token))

    def refresh(self) -> TestResponse:
        return self.client.post("/api/auth/refresh", headers=bearer(self.refresh_token))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def person_of(client: FlaskClient, answer: dict[str, Any]) -> Person:
    return Person(client, answer["user"]["email"], answer["access_token"], answer["refresh_token"])


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., Flask]]:
    """Make the application with some settings of its own."""
    made: list[Flask] = []

    def make(**own: Any) -> Flask:
        # What this machine's environment says of databases and brokers is not for tests.
        elsewhere = {"database_url": "", "redis_url": "", "redis_host": ""}
        values = {"data_dir": tmp_path, "secret_key": SECRET, "celery_broker_url": "memory://"}
        app = create_app(Settings(_env_file=None, **{**elsewhere, **values, **own}))
        with app.app_context():
            Base.metadata.create_all(db.engine)
        made.append(app)
        return app

    yield make
    for app in made:
        with app.app_context():
            db.engine.dispose()


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def ann(client: FlaskClient) -> Person:
    """Ann, who has just registered."""
    answer = client.post(
        "/api/auth/register", json={"email": "ann@example.com", "password": PASSWORD}
    )
    assert answer.status_code == 201, answer.text
    return person_of(client, answer.json)
