"""Whose anything is: another's id is not there, and a bad token is nobody's."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
from flask import Flask
from werkzeug.routing import Rule

from backend.clock import utc_now
from tests.contract.http.service import (
    SECRET,
    Caller,
    Service,
    a_file,
    assert_problem,
    bearer,
    small_pdf,
)

PDF = small_pdf()
# Everybody's: log-ins, health, and the document with its page.
PUBLIC = {
    *("accounts.register", "accounts.login", "accounts.refresh"),
    *("ops.healthz", "ops.readyz", "ops.scrape"),
    *("api-docs.openapi_json", "swagger_ui.show"),
}


OPERATORS = "/api/admin/"  # see test_admin


def calls(app: Flask) -> list[tuple[str, Rule]]:
    """Every method and address that is not everybody's."""
    return [
        (method, rule)
        for rule in app.url_map.iter_rules()
        if rule.endpoint not in PUBLIC
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
    ]


def address(rule: Rule, ids: dict[str, Any]) -> str:
    """A rule's address with someone's ids. An id of a new sort must be given to `ids_of`."""
    built = rule.build({name: ids[name] for name in rule.arguments})
    assert built is not None
    return built[1]


def ids_of(owner: Caller) -> dict[str, Any]:
    """An id of each sort that addresses have, all of the same owner."""
    document = owner.post("/api/documents", data={"file": a_file(PDF, "kept.pdf")})
    batch = owner.compress(PDF, PDF)
    return {
        "job_id": batch.json["job_id"],
        "document_id": document.json["document"]["document_id"],
        "act_id": batch.json["job_id"],
        "name": "default",
    }


@pytest.fixture
def ids(bob: Caller) -> dict[str, Any]:
    return ids_of(bob)


def test_anothers_id_is_not_found_on_any_route(
    service: Service, ann: Caller, bob: Caller, ids: dict[str, Any]
) -> None:
    with_ids = [
        call
        for call in calls(service.app)
        if call[1].arguments and not call[1].rule.startswith(OPERATORS)
    ]
    assert len(with_ids) >= 20
    with service.leaving_nothing_behind():
        for method, rule in with_ids:
            answer = ann.open(method, address(rule, ids))
            assert answer.status_code == 404, (method, rule.rule, answer.text)
            if method != "HEAD":
                said = assert_problem(answer, 404)
                assert "bob" not in str(said)
    assert bob.get(f"/api/jobs/{ids['job_id']}").json["job"]["state"] == "PROGRESS"
    for method, rule in sorted(with_ids, key=lambda call: call[0] == "DELETE"):
        answer = bob.open(method, address(rule, ids), buffered=False)
        assert answer.status_code != 404, (method, rule.rule)
        answer.close()


def test_anothers_ids_in_a_body_are_not_found_either(
    service: Service, ann: Caller, bob: Caller, ids: dict[str, Any]
) -> None:
    with service.leaving_nothing_behind():
        entry = {"document_id": ids["document_id"]}
        answer = ann.post("/api/compress/bulk", json={"files": [entry]})
        assert_problem(answer, 404, "document_not_found")
        for action in ("cancel", "retry", "delete"):
            by_id = {"action": action, "ids": [ids["job_id"]]}
            answer = ann.post("/api/jobs/bulk", json=by_id)
            assert (answer.status_code, answer.json["done"]) == (200, 0)
            assert answer.json["problems"] == [
                {"job_id": ids["job_id"], "error": f"There is no job {ids['job_id']}."}
            ]
            of_all = ann.post("/api/jobs/bulk", json={"action": action, "filter": {}})
            assert of_all.json["matched"] == 0
    assert bob.get(f"/api/jobs/{ids['job_id']}").json["job"]["state"] == "PROGRESS"


def test_lists_show_ones_own_alone(ann: Caller, bob: Caller, ids: dict[str, Any]) -> None:
    assert ann.get("/api/jobs").json["jobs"] == []
    assert ann.get("/api/documents").json["documents"] == []
    assert [job["id"] for job in bob.get("/api/jobs").json["jobs"]] == [ids["job_id"]]


def test_a_batchs_file_is_no_batch(ann: Caller) -> None:
    batch = ann.compress(PDF).json["job_id"]
    child = ann.get(f"/api/jobs/{batch}/children").json["jobs"][0]["id"]
    assert_problem(ann.get(f"/api/compress/jobs/{child}"), 404)
    assert_problem(ann.get(f"/api/compress/download/{child}"), 404)


# ---------------------------------------------------------------- tokens


def claims(caller: Caller, **other: Any) -> dict[str, Any]:
    said = jwt.decode(caller.access_token, SECRET, algorithms=["HS256"])
    return {**said, **other}


def bad_tokens(caller: Caller) -> Iterator[tuple[str, str]]:
    """Tokens that look like the caller's, with the code of their refusal."""
    good = claims(caller)
    late = int((utc_now() - timedelta(seconds=1)).timestamp())
    yield "token_expired", jwt.encode(claims(caller, exp=late), SECRET, "HS256")
    yield "token_invalid", jwt.encode(good, None, "none")
    yield "token_invalid", jwt.encode(good, "another key, of forty characters or more", "HS256")
    yield "token_invalid", jwt.encode(good, SECRET * 2, "HS512")
    yield "token_invalid", jwt.encode(claims(caller, type="refresh"), SECRET, "HS256")
    yield "token_invalid", caller.access_token[:-4]
    yield "token_invalid", caller.access_token.rpartition(".")[0] + "."
    yield "token_invalid", "nonsense"
    yield "token_invalid", "\x00"
    yield "token_revoked", jwt.encode(claims(caller, sub="999"), SECRET, "HS256")


def test_a_bad_token_opens_nothing(
    service: Service, ann: Caller, bob: Caller, ids: dict[str, Any]
) -> None:
    tokens = [*bad_tokens(bob)]
    with service.leaving_nothing_behind():
        for method, rule in calls(service.app):
            for code, token in tokens:
                answer = service.app.test_client().open(
                    address(rule, ids), method=method, headers=bearer(token), data=b"x" * 10
                )
                assert answer.status_code == 401, (method, rule.rule, code, answer.text)
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                if method != "HEAD":
                    assert_problem(answer, 401, code)


def test_without_a_token_nothing_opens(service: Service, ids: dict[str, Any]) -> None:
    client = service.app.test_client()
    with service.leaving_nothing_behind():
        for method, rule in calls(service.app):
            answer = client.open(address(rule, ids), method=method)
            assert answer.status_code == 401, (method, rule.rule)
            basic = {"Authorization": "Basic YW5uOmFubg=="}
            answer = client.open(address(rule, ids), method=method, headers=basic)
            assert answer.status_code == 401, (method, rule.rule)


def test_a_token_is_revoked_by_logging_out(service: Service, bob: Caller) -> None:
    ids = ids_of(bob)
    assert bob.post("/api/auth/logout").status_code == 200
    with service.leaving_nothing_behind():
        for method, rule in calls(service.app):
            answer = bob.open(method, address(rule, ids))
            assert answer.status_code == 401, (method, rule.rule)
            if method != "HEAD":
                assert_problem(answer, 401, "token_revoked")
