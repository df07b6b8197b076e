"""How often someone may try."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.unit.accounts.conftest import PASSWORD, bearer

WRONG = "wrong"


def log_in(
    client: FlaskClient, email: str, password: str = WRONG, address: str = "192.0.2.1"
) -> TestResponse:
    return client.post(
        "/api/auth/login",
        json={"email": email, "password": password},
        environ_base={"REMOTE_ADDR": address},
    )


def register(client: FlaskClient, email: str, address: str = "192.0.2.1") -> TestResponse:
    return client.post(
        "/api/auth/register",
        json={"email": email, "password": PASSWORD},
        environ_base={"REMOTE_ADDR": address},
    )


@pytest.mark.parametrize("exists", [True, False])
def test_an_account_is_limited_alike_whether_it_exists_or_not(
    make_app: Callable[..., Flask], exists: bool
) -> None:
    client = make_app(login_limit_per_account="3 per 15 minutes").test_client()
    if exists:
        register(client, "ann@example.com")
    for left in (2, 1, 0):
        answer = log_in(client, "ann@example.com", address=f"192.0.2.{left}")
        assert answer.status_code == 401
        assert answer.headers["RateLimit-Limit"] == "3"
        assert answer.headers["RateLimit-Remaining"] == str(left)
        assert 890 <= int(answer.headers["RateLimit-Reset"]) <= 901
        assert "Retry-After" not in answer.headers
    # Its other spellings are the same account, and the right password does not help any more.
    refused = log_in(client, " ANN@example.com", PASSWORD, address="192.0.2.99")
    assert (refused.status_code, refused.json["code"]) == (429, "rate_limited")
    assert refused.content_type == "application/problem+json"
    assert 890 <= int(refused.headers["Retry-After"]) <= 901  # rounded up
    assert refused.headers["RateLimit-Remaining"] == "0"
    assert log_in(client, "bob@example.com").status_code == 401


def test_only_failures_count_against_an_account(make_app: Callable[..., Flask]) -> None:
    client = make_app(
        login_limit_per_account="1 per hour", login_limit_per_address="1 per hour"
    ).test_client()
    register(client, "ann@example.com")
    for _ in range(3):
        answer = log_in(client, "ann@example.com", PASSWORD)
        assert (answer.status_code, answer.headers["RateLimit-Remaining"]) == (200, "1")


def test_many_at_the_same_moment_are_limited_like_one_after_another(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(login_limit_per_account="3 per hour")
    gate = threading.Barrier(12)

    def attempt(number: int) -> int:
        gate.wait(30)
        client = app.test_client()
        return log_in(client, "ann@example.com", address=f"192.0.2.{number}").status_code

    with ThreadPoolExecutor(12) as pool:
        answers = sorted(pool.map(attempt, range(12)))
    assert answers == [401] * 3 + [429] * 9


def test_an_address_is_limited_over_all_accounts(make_app: Callable[..., Flask]) -> None:
    client = make_app(login_limit_per_address="2 per hour").test_client()
    for email in ("a@example.com", "b@example.com"):
        assert log_in(client, email).status_code == 401
    refused = log_in(client, "c@example.com")
    assert (refused.status_code, refused.headers["RateLimit-Limit"]) == (429, "2")
    assert int(refused.headers["Retry-After"]) > 3590
    assert log_in(client, "c@example.com", address="192.0.2.2").status_code == 401


def test_an_ipv6_network_counts_as_one_address(make_app: Callable[..., Flask]) -> None:
    client = make_app(login_limit_per_address="1 per hour").test_client()
    assert log_in(client, "a@example.com", address="2001:db8::1").status_code == 401
    assert log_in(client, "b@example.com", address="2001:db8::2").status_code == 429
    assert log_in(client, "b@example.com", address="2001:db8:0:1::2").status_code == 401


def test_registrations_are_limited_by_address(make_app: Callable[..., Flask]) -> None:
    client = make_app(register_limit_per_address="1 per hour").test_client()
    first = register(client, "a@example.com")
    assert (first.status_code, first.headers["RateLimit-Remaining"]) == (201, "0")
    refused = register(client, "b@example.com")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 3590
    assert register(client, "b@example.com", address="192.0.2.2").status_code == 201


def test_a_users_requests_are_limited_over_all_routes_and_addresses(
    make_app: Callable[..., Flask],
) -> None:
    client = make_app(request_limit_per_user="3 per hour").test_client()
    tokens = [
        register(client, f"{name}@example.com", address=f"192.0.2.{number}").json["access_token"]
        for number, name in enumerate(["ann", "bob"])
    ]
    headers = bearer(tokens[0])
    answers = [
        client.get(path, headers=headers, environ_base={"REMOTE_ADDR": f"198.51.100.{number}"})
        for number, path in enumerate(["/api/auth/me", "/api/openapi.json"] * 2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert "Retry-After" not in answers[0].headers
    assert client.get("/api/auth/me", headers=bearer(tokens[1])).status_code == 200


def test_limits_can_be_raised_while_the_application_runs(make_app: Callable[..., Flask]) -> None:
    app = make_app(login_limit_per_account="1 per hour")
    client = app.test_client()
    assert log_in(client, "ann@example.com").status_code == 401
    assert log_in(client, "ann@example.com").status_code == 429
    settings = app.config["SLUICE"]
    app.config["SLUICE"] = settings.model_copy(update={"login_limit_per_account": "9 per hour"})
    assert log_in(client, "ann@example.com").status_code == 401
