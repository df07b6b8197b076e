"""Which tokens open a guarded view, and which do not."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from flask import Flask, jsonify
from flask.testing import FlaskClient

from backend.accounts import services
from backend.accounts.guards import admin_only, current_log_in, current_user, signed_in
from backend.accounts.models import EndReason, User, UserRole
from backend.app import create_app
from backend.config import Settings, SettingsError
from backend.db import transaction
from tests.unit.accounts.conftest import PASSWORD, SECRET, Person, bearer

DEEP = 3_000


def claims_of(token: str) -> dict[str, Any]:
    return jwt.decode(token, SECRET, algorithms=["HS256"])


def forged(token: str, **changed: Any) -> str:
    """The token with other claims, signed with the right key."""
    return jwt.encode({**claims_of(token), **changed}, SECRET, algorithm="HS256")


def token_of(header: bytes, payload: bytes) -> str:
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload, b"x")]
    return b".".join(parts).decode()


def refusal(client: FlaskClient, headers: dict[str, str]) -> str:
    """Ask for what is guarded; return the code of the refusal."""
    answer = client.get("/api/auth/me", headers=headers)
    assert answer.status_code == 401, answer.text
    assert answer.content_type == "application/problem+json"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    code: str = answer.json["code"]
    return code


@pytest.mark.parametrize("sent", ["", "Basic YTpi", "Bearer", "Token x.y.z"])
def test_without_a_token_nobody_is_signed_in(client: FlaskClient, sent: str) -> None:
    assert refusal(client, {"Authorization": sent}) in {"token_missing", "token_invalid"}


def test_no_header_at_all_is_a_missing_token(client: FlaskClient) -> None:
    assert refusal(client, {}) == "token_missing"


@pytest.mark.parametrize(
    "token",
    [
        "garbage",
        "a.b.c",
        "....",
        "\xff\xfe.\xff.\xff",
        token_of(b"[]", b"[]"),
        token_of(b"null", b"1"),
        token_of(b"[" * DEEP, b"{}"),
        token_of(b'{"alg":"HS256"}', b"[" * DEEP),
        token_of(b'{"alg":["HS256"]}', b"{}"),
        token_of(b'{"alg":"HS256","kid":{}}', b"{}"),
        token_of(b'{"alg":"HS256"}', b"9" * 5_000),
    ],
)
def test_garbage_is_an_invalid_token(client: FlaskClient, token: str) -> None:
    assert refusal(client, bearer(token)) == "token_invalid"
    answer = client.post("/api/auth/refresh", headers=bearer(token))
    assert (answer.status_code, answer.json["code"]) == (401, "token_invalid")


def test_an_expired_token_says_so(ann: Person) -> None:
    past = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp())
    expired = forged(ann.access_token, exp=past)
    assert refusal(ann.client, bearer(expired)) == "token_expired"
    answer = ann.client.post(
        "/api/auth/refresh", headers=bearer(forged(ann.refresh_token, exp=past))
    )
    assert (answer.status_code, answer.json["code"]) == (401, "token_expired")
    assert ann.refresh().status_code == 200


def test_a_token_without_a_signature_is_invalid(ann: Person) -> None:
    unsigned = jwt.encode(claims_of(ann.access_token), None, algorithm="none")
    assert refusal(ann.client, bearer(unsigned)) == "token_invalid"


@pytest.mark.parametrize(
    ("key", "algorithm"), [("another key, of forty characters or so!", "HS256"), (SECRET, "HS384")]
)
@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_a_token_of_another_key_or_algorithm_is_invalid(
    ann: Person, key: str, algorithm: str
) -> None:
    other = jwt.encode(claims_of(ann.access_token), key, algorithm=algorithm)
    assert refusal(ann.client, bearer(other)) == "token_invalid"


@pytest.mark.parametrize(
    "changed",
    [
        {"sid": None},
        {"sid": "x"},
        {"sid": 7},
        {"jti": None},
        {"sub": "ann"},
        {"sub": 7},
        {"exp": 10**40},
    ],
)
def test_a_token_with_other_claims_than_ours_is_invalid(
    ann: Person, changed: dict[str, Any]
) -> None:
    assert refusal(ann.client, bearer(forged(ann.access_token, **changed))) == "token_invalid"


def test_a_token_of_another_users_log_in_is_refused(ann: Person) -> None:
    assert refusal(ann.client, bearer(forged(ann.access_token, sub="2"))) == "token_revoked"


def test_each_sort_of_token_opens_its_own_doors_alone(ann: Person) -> None:
    assert refusal(ann.client, bearer(ann.refresh_token)) == "token_invalid"
    for sent in (
        {"headers": bearer(ann.access_token)},
        {"json": {"refresh_token": ann.access_token}},
    ):
        answer = ann.client.post("/api/auth/refresh", **sent)
        assert (answer.status_code, answer.json["code"]) == (401, "token_invalid")
    assert ann.get_me().status_code == 200


def test_a_token_in_the_query_or_a_cookie_is_not_read(ann: Person) -> None:
    ann.client.set_cookie("access_token_cookie", ann.access_token)
    answer = ann.client.get(f"/api/auth/me?jwt={ann.access_token}")
    assert (answer.status_code, answer.json["code"]) == (401, "token_missing")


def test_a_disabled_user_is_out_at_once(app: Flask, ann: Person) -> None:
    with app.app_context(), transaction() as session:
        services.disable(session, ann.email)
    assert refusal(ann.client, bearer(ann.access_token)) == "token_revoked"
    assert ann.refresh().status_code == 401
    body = {"email": ann.email, "password": PASSWORD}
    answer = ann.client.post("/api/auth/login", json=body)
    assert (answer.status_code, answer.json["code"]) == (401, "invalid_credentials")


def test_is_active_alone_shuts_a_user_out(app: Flask, ann: Person) -> None:
    with app.app_context(), transaction() as session:
        session.query(User).update({User.is_active: False})
    assert refusal(ann.client, bearer(ann.access_token)) == "token_revoked"
    assert ann.refresh().status_code == 401


def test_a_view_knows_its_caller_and_when_the_token_expires(
    make_app: Callable[..., Flask],
) -> None:
    app = make_app(access_token_seconds=60)

    @app.get("/whoami")
    @signed_in
    def whoami() -> Any:
        bound = structlog.contextvars.get_contextvars()["user_id"]
        log_in = current_log_in()
        left, held = log_in.seconds_left, log_in.holds()
        with transaction() as session:
            services.end_all_sessions(session, current_user().id, EndReason.LOGGED_OUT)
        holds = [held, log_in.holds()]
        return jsonify(id=current_user().id, bound=bound, left=left, holds=holds)

    client = app.test_client()
    body = {"email": "ann@example.com", "password": PASSWORD}
    token = client.post("/api/auth/register", json=body).json["access_token"]
    answer = client.get("/whoami", headers=bearer(token)).json
    assert answer["id"] == answer["bound"] == 1
    assert 0 < answer["left"] <= 60
    assert answer["holds"] == [True, False]


def test_admin_only_lets_administrators_pass(make_app: Callable[..., Flask]) -> None:
    app = make_app()
    app.add_url_rule("/admin", view_func=admin_only(lambda: "welcome"), endpoint="admin")
    client = app.test_client()
    body = {"email": "ann@example.com", "password": PASSWORD}
    headers = bearer(client.post("/api/auth/register", json=body).json["access_token"])
    answer = client.get("/admin", headers=headers)
    assert (answer.status_code, answer.json["code"]) == (403, "admin_only")
    with app.app_context(), transaction() as session:
        session.get_one(User, 1).role = UserRole.ADMIN
    assert client.get("/admin", headers=headers).text == "welcome"
    assert client.get("/admin").json["code"] == "token_missing"


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
def test_a_weak_secret_stops_the_start(tmp_path: Path, secret: str) -> None:
    with pytest.raises(SettingsError, match=r"SECRET_KEY .*32 or more random characters") as error:
        create_app(Settings(data_dir=tmp_path, secret_key=secret, _env_file=None))
    assert not secret or secret not in str(error.value)


def test_a_limit_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LOGIN_LIMIT_PER_ACCOUNT is 'many'"):
        create_app(
            Settings(
                data_dir=tmp_path, secret_key=SECRET, login_limit_per_account="many", _env_file=None
            )
        )


def test_a_token_is_json_with_the_log_ins_id(ann: Person) -> None:
    access, refresh = claims_of(ann.access_token), claims_of(ann.refresh_token)
    assert access["sid"] == refresh["sid"]
    assert access["jti"] != refresh["jti"]
    assert json.dumps(access["sub"]) == '"1"'
