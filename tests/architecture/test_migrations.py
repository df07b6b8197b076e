"""The migrations lead to the models: tables, columns, and indexes with their conditions."""

from pathlib import Path

import flask_migrate
import pytest
from flask import Flask
from sqlalchemy import text

from backend.app import create_app
from backend.config import Settings
from backend.db import Base, db, transaction

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


def test_what_was_there_before_a_migration_is_there_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables are made anew on SQLite; what refers to their rows must not go with the old ones."""
    monkeypatch.chdir(ROOT)
    named = {"now": "2026-11-01 00:00:00.000000", "job": "a" * 32, "child": "b" * 32}
    job = (
        "INSERT INTO jobs (id, parent_id, kind, owner_id, label, queue, priority, state, params,"
        " created_at, run_at, attempt, uncharged, max_attempts, cancel_force, percent, stage,"
        " message, version, request_id) VALUES (%s, 'a.b', 1, '', 'default', 5, 'queued', '{}',"
        " :now, :now, 0, 0, 3, 0, 0, '', '', 1, '')"
    )
    event = (
        "INSERT INTO job_events (id, job_id, owner_id, at, state, attempt)"
        " VALUES (%s, 1, :now, 'queued', 0)"
    )
    rows = (
        "INSERT INTO users VALUES (1, 'ann@example.com', '', '-', 'user', 'free', 1, :now)",
        "INSERT INTO stored_files VALUES (5, 1, 'ab', 9, 'a/pdf', :now, NULL)",
        "INSERT INTO documents VALUES (7, 1, 5, 'kept.pdf', :now)",
        *(job % ids for ids in (":job, NULL", ":child, :job")),
        *(event % ids for ids in ("11, :job", "12, :child")),
    )
    with make_app(tmp_path / "data").app_context():
        flask_migrate.upgrade(revision="0001")
        with transaction() as session:
            for row in rows:
                session.execute(text(row), named)
        flask_migrate.upgrade()
        kept = db.session.execute(text("SELECT id, name FROM documents")).all()
        events = db.session.execute(
            text("SELECT id, owner_id, txid FROM job_events ORDER BY id")
        ).all()
        broken = db.session.execute(text("PRAGMA foreign_key_check")).all()
        db.session.remove()
        db.engine.dispose()
    assert [tuple(row) for row in kept] == [(7, "kept.pdf")]
    assert [tuple(row) for row in events] == [(11, 1, 0), (12, None, 0)]
    assert broken == []


def test_a_migration_can_be_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with make_app(tmp_path / "back").app_context():
        flask_migrate.upgrade()
        flask_migrate.downgrade(revision="base")
        left = db.session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'table'")).all()
        db.session.remove()
        db.engine.dispose()
    assert set(left) <= {"alembic_version", "sqlite_sequence"}
