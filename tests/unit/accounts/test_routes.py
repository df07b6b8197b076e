"""Registering, logging in, refreshing and logging out, as a client sees them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select
from werkzeug.test import TestResponse

from backend.accounts.models import AuthSession
from backend.db import db
from tests.unit.accounts.conftest import PASSWORD, Person, bearer, person_of

PROBLEM = "application/problem+json"


def assert_refused(answer: TestResponse, status: int, code: str) -> None:
    assert (answer.status_code, answer.json["code"]) == (status, code), answer.text
    assert answer.content_type == PROBLEM
    assert answer.json["success"] is False
    assert answer.json["request_id"]


def log_in(client: FlaskClient, email: str, password: str) -> TestResponse:
    return client.post("/api/auth/login", json={"email": email, "password": password})


def test_registering_logs_in(client: FlaskClient) -> None:
    answer = client.post(
        "/api/auth/register",
        json={"email": " Ann@Example.COM ", "password": PASSWORD, "name": "Ann"},
    )
    assert answer.status_code == 201
    assert answer.json["success"] is True
    assert answer.json["token_type"] == "Bearer"
    assert answer.json["expires_in"] == 900
    user = answer.json["user"]
    assert (user["email"], user["name"]) == ("ann@example.com", "Ann")
    assert (user["role"], user["plan"]) == ("user", "free")
    assert "password" not in answer.text
    me = person_of(client, answer.json).get_me()
    assert me.json == {"success": True, "user": user}


def test_logging_in_gives_tokens_that_work(ann: Person) -> None:
    answer = log_in(ann.client, " ANN@example.com", PASSWORD)
    assert answer.status_code == 200
    assert answer.json["success"] is True
    assert person_of(ann.client, answer.json).get_me().json["user"]["email"] == ann.email


def test_an_address_has_one_account(ann: Person) -> None:
    again = {"email": "ANN@example.com", "password": "another password"}
    answer = ann.client.post("/api/auth/register", json=again)
    assert_refused(answer, 409, "email_taken")
    assert "email" in answer.json["fields"]
    assert log_in(ann.client, ann.email, PASSWORD).status_code == 200


def test_two_who_register_one_address_at_the_same_moment_get_one_account(app: Flask) -> None:
    body = {"email": "ann@example.com", "password": PASSWORD}
    assert sorted(at_once(app, "/api/auth/register", json=body)) == [201, 409]


def test_registration_can_be_closed(make_app: Callable[..., Flask]) -> None:
    client = make_app(registration_open=False).test_client()
    body = {"email": "ann@example.com", "password": PASSWORD}
    assert_refused(client.post("/api/auth/register", json=body), 403, "registration_closed")


def test_a_wrong_password_and_an_unknown_account_read_the_same(ann: Person) -> None:
    answers = [log_in(ann.client, ann.email, "wrong"), log_in(ann.client, "bob@b.org", PASSWORD)]
    for answer in answers:
        assert_refused(answer, 401, "invalid_credentials")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answers[0].json["error"] == answers[1].json["error"]


def test_a_refresh_gives_a_new_pair(ann: Person) -> None:
    answer = ann.refresh()
    assert answer.status_code == 200
    renewed = person_of(ann.client, answer.json)
    assert renewed.refresh_token != ann.refresh_token
    assert renewed.get_me().status_code == 200
    assert renewed.refresh().status_code == 200


def test_a_refresh_token_may_come_in_the_body(ann: Person) -> None:
    # Some clients send their old access token with every request.
    answer = ann.client.post(
        "/api/auth/refresh",
        json={"refresh_token": ann.refresh_token},
        headers=bearer(ann.access_token),
    )
    assert answer.status_code == 200
    assert person_of(ann.client, answer.json).get_me().status_code == 200


def test_a_reused_refresh_token_ends_its_family(app: Flask, ann: Person) -> None:
    other = person_of(ann.client, log_in(ann.client, ann.email, PASSWORD).json)
    renewed = person_of(ann.client, ann.refresh().json)
    assert_refused(ann.refresh(), 401, "token_revoked")
    assert_refused(renewed.refresh(), 401, "token_revoked")
    assert_refused(renewed.get_me(), 401, "token_revoked")
    assert_refused(ann.get_me(), 401, "token_revoked")
    assert other.get_me().status_code == 200
    with app.app_context():
        reasons = db.session.scalars(select(AuthSession.revoked_reason)).all()
    assert set(reasons) == {None, "token_reused"}


def test_of_two_refreshes_at_the_same_moment_one_wins(app: Flask, ann: Person) -> None:
    headers = bearer(ann.refresh_token)
    assert sorted(at_once(app, "/api/auth/refresh", headers=headers)) == [200, 401]


def test_logging_out_ends_all_tokens_of_this_log_in_alone(ann: Person) -> None:
    other = person_of(ann.client, log_in(ann.client, ann.email, PASSWORD).json)
    answer = ann.client.post("/api/auth/logout", headers=bearer(ann.access_token))
    assert (answer.status_code, answer.json) == (200, {"success": True})
    assert_refused(ann.get_me(), 401, "token_revoked")
    assert_refused(ann.refresh(), 401, "token_revoked")
    assert other.get_me().status_code == 200


@pytest.mark.parametrize("path", ["/api/auth/refresh", "/api/auth/logout"])
def test_what_needs_a_token_says_so(client: FlaskClient, path: str) -> None:
    answer = client.post(path)
    assert_refused(answer, 401, "token_missing")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/api/auth/register", "/api/auth/login"])
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({}, 422),
        ({"data": "email=ann"}, 415),
        ({"data": "{", "content_type": "application/json"}, 400),
        ({"data": b'{"email": "\xff"}', "content_type": "application/json"}, 400),
        ({"json": None}, 422),
        ({"json": []}, 422),
        ({"json": "text"}, 422),
        ({"json": {"email": "a@b.org"}}, 422),
        ({"json": {"email": None, "password": PASSWORD}}, 422),
        ({"json": {"email": 7, "password": PASSWORD}}, 422),
        ({"json": {"email": ["a@b.org"], "password": {"$ne": ""}}}, 422),
        ({"json": {"email": "a@b.org", "password": PASSWORD, "role": "admin"}}, 422),
        ({"json": {"email": "not an address", "password": PASSWORD}}, 422),
        ({"json": {"email": "a" * 250 + "@b.org", "password": PASSWORD}}, 422),
        ({"json": {"email": "@" * 1_000_000, "password": PASSWORD}}, 422),
        ({"json": {"email": "\u0130" * 150 + "@b.org", "password": PASSWORD}}, 422),
        ({"json": {"email": "a\x00@b.org", "password": PASSWORD}}, 422),
        ({"json": {"email": "\ud800@b.org", "password": PASSWORD}}, 422),
        ({"json": {"email": "a@b.org", "password": "\udfff" * 9}}, 422),
        ({"json": {"email": "a@b.org", "password": "p" * 1_000_000}}, 422),
    ],
)
def test_bad_input_is_refused_by_name(
    client: FlaskClient, path: str, sent: dict[str, object], status: int
) -> None:
    answer = client.post(path, **sent)
    assert (answer.status_code, answer.content_type) == (status, PROBLEM), answer.text
    assert len(answer.data) < 2_000


@pytest.mark.parametrize(
    ("password", "status"), [("p" * 7, 422), ("p" * 8, 201), ("p" * 1024, 201), ("p" * 1025, 422)]
)
def test_a_password_has_8_to_1024_characters(
    client: FlaskClient, password: str, status: int
) -> None:
    body = {"email": "ann@example.com", "password": password}
    assert client.post("/api/auth/register", json=body).status_code == status


@pytest.mark.parametrize("body", [{"refresh_token": 7}, {"refresh_token": ""}, {"token": "x"}, []])
def test_a_refresh_refuses_a_badly_formed_body(client: FlaskClient, body: object) -> None:
    assert_refused(client.post("/api/auth/refresh", json=body), 422, "invalid_input")


def test_the_document_says_which_routes_need_a_token(client: FlaskClient) -> None:
    paths = client.get("/api/openapi.json").json["paths"]
    assert paths["/api/auth/me"]["get"]["security"] == [{"bearer": []}]
    assert paths["/api/auth/logout"]["post"]["security"] == [{"bearer": []}]
    assert paths["/api/auth/refresh"]["post"]["security"] == [{"bearer": []}, {}]
    assert paths["/api/auth/refresh"]["post"]["requestBody"]["required"] is False
    assert "security" not in paths["/api/auth/login"]["post"]


def at_once(app: Flask, path: str, **sent: object) -> list[int]:
    """Post the same twice, at the same moment; return the statuses."""
    barrier = Barrier(2)

    def post() -> int:
        client = app.test_client()
        barrier.wait(timeout=10)
        return client.post(path, **sent).status_code

    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(post), pool.submit(post)]]
