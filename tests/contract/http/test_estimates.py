"""What a file will become, asked before it is sent to be compressed."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.http.service import (
    Caller,
    Service,
    a_file,
    assert_problem,
    small_pdf,
)

ESTIMATE = "/api/compress/estimate"
FIXTURES = Path(__file__).parents[2] / "fixtures" / "pdf"
PHOTO = (FIXTURES / "photo.pdf").read_bytes()


@pytest.fixture(autouse=True)
def nothing_left_behind(shared: Service, ann: Caller) -> Iterator[None]:
    with shared.leaving_nothing_behind():
        yield


@pytest.fixture
def ann(shared: Service) -> Caller:
    return shared.sign_in("ann")


def test_a_file_in_a_form_or_in_json_is_estimated(ann: Caller) -> None:
    entry = {"name": "photo.pdf", "content": base64.b64encode(PHOTO).decode()}
    for answer in (
        ann.post(ESTIMATE, data={"file": a_file(PHOTO, "photo.pdf")}),
        ann.post(ESTIMATE, json=entry),
    ):
        assert answer.status_code == 200, answer.json
        said = answer.json
        assert (said["name"], said["original_bytes"], said["pages"]) == (
            "photo.pdf",
            len(PHOTO),
            1,
        )
        assert said["sizes"]["images"] > 0.9 * len(PHOTO)
        sizes = {each["level"]: each["bytes"] for each in said["expected"]}
        assert list(sizes) == ["lossless", "low", "medium", "high"]
        assert sizes["high"] <= sizes["medium"] <= sizes["low"] <= sizes["lossless"] <= len(PHOTO)
        assert sizes["high"] < len(PHOTO) / 4


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "empty_file"), (b"no PDF at all", "not_a_pdf"), (b"%PDF-1.7 cut", "not_a_pdf")],
)
def test_what_is_no_pdf_is_refused(content: bytes, code: str, ann: Caller) -> None:
    answer = ann.post(ESTIMATE, data={"file": a_file(content, "a.pdf")})
    assert_problem(answer, 422, code)


def test_a_locked_file_needs_its_password(ann: Caller) -> None:
    locked = (FIXTURES / "password.pdf").read_bytes()
    answer = ann.post(ESTIMATE, data={"file": a_file(locked, "a.pdf")})
    assert_problem(answer, 422, "needs_password")
    answer = ann.post(ESTIMATE, data={"file": a_file(locked, "a.pdf"), "password": "wrong"})
    assert_problem(answer, 422, "wrong_password")
    answer = ann.post(ESTIMATE, data={"file": a_file(locked, "a.pdf"), "password": "baz"})
    assert answer.json["encrypted"]


def test_others_documents_are_not_there(shared: Service, ann: Caller) -> None:
    assert_problem(ann.post(ESTIMATE, json={"document_id": 10**9}), 404, "document_not_found")
    assert_problem(ann.post(ESTIMATE, json={"name": "a.pdf"}), 422, "invalid_input")
    assert_problem(ann.post(ESTIMATE, data={}), 422, "invalid_input")
    two = [a_file(small_pdf(), "a.pdf"), a_file(small_pdf(), "b.pdf")]
    assert_problem(ann.post(ESTIMATE, data={"file": two}), 422, "invalid_input")


def test_who_is_not_signed_in_gets_no_estimate(shared: Service) -> None:
    answer = shared.app.test_client().post(ESTIMATE, json={})
    assert answer.status_code == 401
