"""The migrations lead to the models: tables, columns, and indexes with their conditions."""

from pathlib import Path

import flask_migrate
import pytest
from flask import Flask
from sqlalchemy import text

from backend.app import create_app
from backend.config import Settings
from backend.db import Base, db

ROOT = Path(__file__).parents[2]


def make_app(folder: Path) -> Flask:
    folder.mkdir()
    return create_app(
        Settings(
            _env_file=None,
            data_dir=folder,
            database_url="",
            celery_broker_url="memory://",
            redis_url="",
            redis_host="",
            secret_key="s" * 40,
            log_level="error",
        )
    )


def schema() -> dict[str, set[str]]:
    """Every table's columns and every index, as SQLite spells them, without white space."""
    columns = {
        f"table {table}": {
            f"{row.name} {row.type} {row.notnull}"
            for row in db.session.execute(text(f"PRAGMA table_info({table})"))
        }
        for table in Base.metadata.tables
    }
    rows = db.session.execute(
        text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
    )
    return columns | {f"index {row.name}": {" ".join(row.sql.split())} for row in rows}


def test_migrating_from_nothing_gives_what_the_models_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with make_app(tmp_path / "migrated").app_context():
        flask_migrate.upgrade()
        migrated = schema()
        db.engine.dispose()
    with make_app(tmp_path / "made").app_context():
        Base.metadata.create_all(db.engine)
        made = schema()
        db.engine.dispose()
    assert migrated == made


def test_a_migration_can_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with make_app(tmp_path / "back").app_context():
        flask_migrate.upgrade()
        flask_migrate.downgrade(revision="base")
        left = db.session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
        db.session.remove()
        db.engine.dispose()
    assert set(left) <= {"alembic_version", "sqlite_sequence"}
