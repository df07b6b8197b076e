"""The OpenAPI document that the application serves of itself."""

import re
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
    ("get", "/api/jobs/{job_id}/result"),
    ("get", "/api/documents"),
    ("post", "/api/documents"),
    ("get", "/api/documents/{document_id}"),
    ("delete", "/api/documents/{document_id}"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/api/admin/jobs"),
    ("get", "/api/admin/jobs/{job_id}"),
    ("post", "/api/admin/jobs/bulk"),
    ("get", "/api/admin/queues"),
    ("post", "/api/admin/queues/{name}/pause"),
    ("post", "/api/admin/queues/{name}/resume"),
    ("get", "/api/admin/kinds"),
    ("post", "/api/admin/kinds/{name}/pause"),
    ("post", "/api/admin/kinds/{name}/resume"),
    ("get", "/api/admin/workers"),
    ("post", "/api/admin/workers/{name}/drain"),
    ("post", "/api/admin/workers/{name}/undrain"),
    ("get", "/api/admin/doctor"),
    ("get", "/api/admin/acts"),
    ("get", "/api/admin/acts/{act_id}"),
}
OPEN = {"/api/auth/register", "/api/auth/login"}
OPEN |= {"/healthz", "/readyz", "/metrics"}
PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
ASSET = re.compile(r'(?:src|href)="([^"]+)"')
OUTSIDE = re.compile(r"""(?:https?:)?//[\w.-]+\.\w+[^"'\s)]*|http://localhost[^"'\s)]*""")
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
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


def test_every_route_is_documented(service: Service, document: dict[str, Any]) -> None:
    undocumented = {"api-docs.openapi_json", "swagger_ui.show"}
    routes = {
        (method.lower(), PARAMETER.sub(r"{\1}", rule.rule))
        for rule in service.app.url_map.iter_rules()
        if rule.endpoint not in undocumented
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert operations(document).keys() == routes


def test_a_jobs_states_are_those_of_the_contract(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["Job"]["properties"]["state"]["enum"]) == {
        *("PENDING", "PROGRESS", "RETRY", "CANCELLING", "SUCCESS", "FAILURE", "REVOKED")
    }
    assert set(schemas["JobEnvelope"]["properties"]["status"]["enum"]) == {
        *("pending", "processing", "completed", "failed", "cancelled")
    }


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    for call, found in operations(document).items():
        assert found["summary"].endswith("."), call


def test_every_call_but_those_for_strangers_needs_a_token(document: dict[str, Any]) -> None:
    unguarded = {
        path for (_, path), found in operations(document).items() if not found.get("security")
    }
    assert unguarded == OPEN
    for (_, path), found in operations(document).items():
        if path not in OPEN:
            assert {"bearer": []} in found["security"], path
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_errors_are_problem_documents(document: dict[str, Any]) -> None:
    error = document["components"]["responses"]["DEFAULT_ERROR"]
    assert set(error["content"]) == {"application/problem+json"}
    for call, found in operations(document).items():
        assert found["responses"]["default"] == {"$ref": "#/components/responses/DEFAULT_ERROR"}
        for status, answer in found["responses"].items():
            if status[0] == "4":
                name = answer["$ref"].rpartition("/")[2]
                media_types = document["components"]["responses"][name]["content"]
                assert set(media_types) == {"application/problem+json"}, call
    problem = document["components"]["schemas"]["Problem"]
    assert set(problem["required"]) == set(problem["properties"])


def test_a_batch_can_be_sent_as_json_and_as_a_form(document: dict[str, Any]) -> None:
    body = operations(document)["post", "/api/compress/bulk"]["requestBody"]
    assert set(body["content"]) == {"application/json", "multipart/form-data"}
    assert body["required"] is True
    as_json = schema_of(document, body["content"]["application/json"])
    as_form = schema_of(document, body["content"]["multipart/form-data"])
    for schema in (as_json, as_form):
        assert schema["required"] == ["files"]
        assert schema["additionalProperties"] is False
        settings = schema["properties"]
        assert settings["compression_level"]["enum"] == ["lossless", "low", "medium", "high"]
        assert settings["image_quality"].items() >= {"minimum": 1, "maximum": 100}.items()
    files = as_form["properties"]["files"]
    assert files["items"] == {"type": "string", "format": "binary"}
    entry = schema_of(document, {"schema": as_json["properties"]["files"]["items"]})
    assert set(entry["properties"]) == {"name", "content", "document_id", "password"}


def schema_of(document: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    name = content["schema"]["$ref"].rpartition("/")[2]
    found: dict[str, Any] = document["components"]["schemas"][name]
    return found


HEADERS = {
    "Idempotency-Key": {
        ("post", "/api/compress/bulk"),
        ("post", "/api/documents"),
        ("post", "/api/admin/jobs/bulk"),
        ("post", "/api/jobs/bulk"),
        ("post", "/api/jobs/{job_id}/cancel"),
        ("post", "/api/jobs/{job_id}/retry"),
    },
    "If-None-Match": {
        ("get", "/api/jobs/{job_id}"),
        ("get", "/api/jobs/{job_id}/result"),
        ("get", "/api/compress/jobs/{job_id}"),
        ("get", "/api/compress/download/{job_id}"),
    },
    "Last-Event-ID": {("get", "/api/jobs/events"), ("get", "/api/jobs/{job_id}/events")},
    "Range": {
        ("get", "/api/jobs/{job_id}/result"),
        ("get", "/api/compress/download/{job_id}"),
    },
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_is_documented_where_it_is_honoured(document: dict[str, Any], header: str) -> None:
    documented = {
        call
        for call, found in operations(document).items()
        for parameter in found.get("parameters", [])
        if (parameter["in"], parameter["name"]) == ("header", header)
    }
    assert documented >= HEADERS[header]


def test_accepted_work_says_where_to_look_and_when(document: dict[str, Any]) -> None:
    accepting = [
        found["responses"]["202"]
        for found in operations(document).values()
        if "202" in found["responses"]
    ]
    assert len(accepting) >= 2
    for answer in accepting:
        assert set(answer["headers"]) == {"Location", "Retry-After"}


def test_what_can_be_unchanged_says_so(document: dict[str, Any]) -> None:
    for call in HEADERS["If-None-Match"]:
        assert "304" in operations(document)[call]["responses"]
    for call in HEADERS["Range"]:
        assert "206" in operations(document)[call]["responses"]


def test_the_page_of_the_document_needs_nothing_from_outside(service: Service) -> None:
    client = service.app.test_client()
    assert client.get("/api/docs").status_code == 308
    page = client.get("/api/docs/").get_data(as_text=True)
    assert '"url": "/api/openapi.json"' in page
    assert '"validatorUrl": null' in page
    assert set(OUTSIDE.findall(page)) <= {"http://localhost/api/docs/oauth2-redirect.html"}
    assets = ASSET.findall(page)
    assert len(assets) >= 5
    for asset in assets:
        answer = client.get(asset, buffered=True)
        assert answer.status_code == 200, asset
        if asset.endswith(".css"):
            assert not OUTSIDE.findall(answer.get_data(as_text=True).replace(SVG_NAMESPACE, ""))
