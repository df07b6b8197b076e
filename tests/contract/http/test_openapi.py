"""The OpenAPI document that the application serves of itself."""

from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.contract.http.service import Service

# API.md's calls that exist so far.
CALLS = {
    ("post", "/api/auth/register"),
    ("post", "/api/auth/login"),
    ("post", "/api/auth/refresh"),
    ("post", "/api/auth/logout"),
    ("get", "/api/auth/me"),
    ("get", "/api/jobs"),
    ("get", "/api/jobs/events"),
    ("post", "/api/jobs/bulk"),
    ("get", "/api/jobs/{job_id}"),
    ("delete", "/api/jobs/{job_id}"),
    ("post", "/api/jobs/{job_id}/cancel"),
    ("post", "/api/jobs/{job_id}/retry"),
    ("get", "/api/jobs/{job_id}/events"),
    ("get", "/api/jobs/{job_id}/attempts"),
    ("get", "/api/jobs/{job_id}/children"),
    ("get", "/api/jobs/{job_id}/log"),
    ("get", "/jobs/{job_id}/status"),
    ("post", "/api/compress/bulk"),
    ("get", "/api/compress/jobs/{job_id}"),
    ("get", "/api/compress/download/{job_id}"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
}
OPEN = {"/api/auth/register", "/api/auth/login"}
OPEN |= {"/healthz", "/readyz", "/metrics"}
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(service: Service) -> dict[str, Any]:
    answer = service.app.test_client().get("/api/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_every_call_of_the_contract_is_documented(document: dict[str, Any]) -> None:
    assert operations(document).keys() >= CALLS


def test_every_call_but_those_for_strangers_needs_a_token(document: dict[str, Any]) -> None:
    unguarded = {
        path for (_, path), found in operations(document).items() if not found.get("security")
    }
    assert unguarded == OPEN


def test_errors_are_problem_documents(document: dict[str, Any]) -> None:
    error = document["components"]["responses"]["DEFAULT_ERROR"]
    assert set(error["content"]) == {"application/problem+json"}
    assert all("default" in found["responses"] for found in operations(document).values())


def test_a_batch_can_be_sent_as_json_and_as_a_form(document: dict[str, Any]) -> None:
    body = operations(document)["post", "/api/compress/bulk"]["requestBody"]
    assert set(body["content"]) == {"application/json", "multipart/form-data"}


def test_the_page_of_the_document_needs_nothing_from_outside(service: Service) -> None:
    page = service.app.test_client().get("/api/docs/").get_data(as_text=True)
    assert "/api/openapi.json" in page or "openapi.json" in page
    assert "https://" not in page.replace("https://swagger.io", "")
