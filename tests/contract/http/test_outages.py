"""What callers are told while something that the service needs is away."""

import sqlite3

import pytest

from backend import db
from tests.contract.http.service import Caller, Service, assert_problem, small_pdf


def test_a_database_that_does_not_let_us_write_is_a_503(
    service: Service, ann: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "BUSY_TIMEOUT_MS", 200)
    other = sqlite3.connect(str(service.settings.sqlalchemy_url.database), isolation_level=None)
    before = service.kept()
    other.execute("BEGIN IMMEDIATE")
    answers = [ann.compress(small_pdf()), ann.post("/api/auth/logout")]
    other.close()

    for answer in answers:
        assert_problem(answer, 503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    # A blob cannot be told from a wanted one without the lock; the clean-up finds it.
    assert service.kept() == {**before, "blobs": 1}
    assert ann.compress(small_pdf()).status_code == 202


def test_a_database_without_its_tables_is_a_503_that_tells_nothing_of_it(
    service: Service, ann: Caller
) -> None:
    with service.app.app_context(), db.db.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE auth_sessions RENAME TO gone")
    assert_problem(ann.get("/api/jobs"), 503, "unavailable")
