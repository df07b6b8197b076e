"""The smallest application that stores files: a real SQLite file, real folders, two owners."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from backend.accounts.models import User
from backend.config import Settings
from backend.db import Base, db, engine_options, transaction
from backend.storage.blobs import Blobs, current_settings, store
from backend.storage.services import open_spool
from backend.storage.spool import Spool

ALICE, BOB = 1, 2

SpoolOf = Callable[[bytes], Spool]


def make_app(settings: Settings) -> Flask:
    app = Flask("storage")
    app.config["SLUICE"] = settings
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.sqlalchemy_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(settings.sqlalchemy_url)
    db.init_app(app)
    with app.app_context():
        Base.metadata.create_all(db.engine)
        with transaction() as session:
            for id_, name in ((ALICE, "alice"), (BOB, "bob")):
                session.add(User(id=id_, email=f"{name}@example.org", password_hash="-"))
    return app


@pytest.fixture
def own_settings() -> dict[str, Any]:
    """Settings of a test's own, given by `@pytest.mark.parametrize("own_settings", ...)`."""
    return {}


@pytest.fixture
def app(tmp_path: Path, own_settings: dict[str, Any]) -> Iterator[Flask]:
    (tmp_path / "var").mkdir()
    app = make_app(Settings(_env_file=None, **{"data_dir": tmp_path / "var", **own_settings}))
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def blobs(app: Flask) -> Blobs:
    return store()


@pytest.fixture
def uploads(app: Flask) -> Path:
    return current_settings().workspaces / "uploads"


@pytest.fixture
def spool_of(app: Flask) -> Iterator[SpoolOf]:
    """Spool some bytes; closed at the end of the test."""
    made: list[Spool] = []

    def spool_of(content: bytes) -> Spool:
        spool = open_spool()
        made.append(spool)
        spool.write(content)
        return spool

    yield spool_of
    for spool in made:
        spool.close()
