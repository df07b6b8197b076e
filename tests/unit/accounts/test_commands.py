"""`flask --app app_v2 users …`"""

import pytest
from click.testing import Result
from flask import Flask

from tests.unit.accounts.conftest import PASSWORD, Person


def run(app: Flask, *words: str, typed: str = "") -> Result:
    return app.test_cli_runner().invoke(args=["users", *words], input=typed)


def test_an_administrator_is_made_and_can_log_in(app: Flask) -> None:
    made = run(app, "create", "--admin", "--email", "Root@example.com", "--password", PASSWORD)
    assert (made.exit_code, made.output) == (0, "1 root@example.com\n")
    body = {"email": "root@example.com", "password": PASSWORD}
    answer = app.test_client().post("/api/auth/login", json=body)
    assert (answer.status_code, answer.json["user"]["role"]) == (200, "admin")


def test_a_password_may_come_by_standard_input(app: Flask) -> None:
    words = ("create", "--email", "ann@example.com", "--password-stdin")
    made = run(app, *words, typed=f"{PASSWORD}\n")
    assert (made.exit_code, made.output) == (0, "1 ann@example.com\n")
    body = {"email": "ann@example.com", "password": PASSWORD}
    answer = app.test_client().post("/api/auth/login", json=body)
    assert (answer.status_code, answer.json["user"]["role"]) == (200, "user")


def test_a_password_is_asked_for_twice(app: Flask) -> None:
    made = run(app, "create", "--email", "ann@example.com", typed=f"{PASSWORD}\n{PASSWORD}\n")
    assert made.exit_code == 0
    assert made.output.endswith("1 ann@example.com\n")
    assert PASSWORD not in made.output


@pytest.mark.parametrize(
    ("email", "password", "sentence"),
    [
        ("ann@example.com", PASSWORD, "ann@example.com already has an account"),
        ("bob@example.com", "short", "password: Length must be between 8 and 1024"),
        ("not an address", PASSWORD, "email: Not a valid email address"),
        ("bob@example.com", "\udcff" * 9, "has a character that is not text"),
    ],
)
def test_what_is_wrong_is_said(
    app: Flask, ann: Person, email: str, password: str, sentence: str
) -> None:
    made = run(app, "create", "--email", email, "--password", password)
    assert made.exit_code == 1
    assert sentence in made.output


def test_two_passwords_are_one_too_many(app: Flask) -> None:
    words = ("--email", "a@b.org", "--password", PASSWORD, "--password-stdin")
    assert run(app, "create", *words).exit_code == 1


def test_a_disabled_user_is_listed_and_out(app: Flask, ann: Person) -> None:
    assert run(app, "list").output == "1 ann@example.com user free active\n"
    assert run(app, "disable", "ANN@example.com").output == "1 ann@example.com disabled\n"
    assert run(app, "list").output == "1 ann@example.com user free disabled\n"
    assert ann.get_me().json["code"] == "token_revoked"


def test_nobody_cannot_be_disabled(app: Flask) -> None:
    refused = run(app, "disable", "nobody@example.com")
    assert refused.exit_code == 1
    assert "nobody@example.com has no account" in refused.output
