"""What is wrong gets its problem document at once, and nothing of it is kept."""

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from backend.http.pagination import encode_cursor
from tests.contract.http.service import (
    PROBLEM,
    Caller,
    Service,
    a_file,
    assert_problem,
    form,
    small_pdf,
)

PDF = small_pdf()
CONTENT = base64.b64encode(PDF).decode()
GOOD = {"name": "a.pdf", "content": CONTENT}
BULK = "/api/compress/bulk"
NOBODY = UUID(int=7)


@pytest.fixture(autouse=True)
def nothing_left_behind(shared: Service, ann: Caller) -> Iterator[None]:
    with shared.leaving_nothing_behind():
        yield


@pytest.fixture
def ann(shared: Service) -> Caller:
    return shared.sign_in("ann")


def as_json(text: str | bytes) -> dict[str, Any]:
    return {"data": text, "content_type": "application/json"}


def batch(*files: Any, **settings: Any) -> dict[str, Any]:
    return {"files": list(files or [GOOD]), **settings}


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_json"),
        ("{} {}", "invalid_json"),
        (json.dumps(batch()) + "x", "invalid_json"),
        (json.dumps(batch()) + "\x00", "invalid_json"),
        ("nonsense", "invalid_json"),
        (b"\xff\xfe\x00", "invalid_json"),
        (b'{"files": "\xff"}', "invalid_json"),
        (gzip.compress(json.dumps(batch()).encode(), mtime=0), "invalid_json"),
        ('{"image_quality": NaN}', "invalid_json"),
        ('{"image_quality": -Infinity}', "invalid_json"),
        ('{"image_quality": ' + "9" * 5000 + "}", "invalid_json"),
        ('{"files": [], "files": []}', "invalid_json"),
        ('{"files": [{"name": "a.pdf", "name": "b.pdf"}]}', "invalid_json"),
        ("[" * 100_000, "bad_request"),
        ('{"files":' * 100_000, "bad_request"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_that_is_not_json_cannot_be_read(ann: Caller, text: Any, code: str) -> None:
    assert_problem(ann.post(BULK, **as_json(text)), 400, code)


@pytest.mark.parametrize("depth", range(800, 1001, 20))
def test_json_of_any_depth_is_refused_and_breaks_nothing(ann: Caller, depth: int) -> None:
    nested = "[" * depth + '"\\u0000"' + "]" * depth
    answer = ann.post(BULK, **as_json('{"files": ' + nested + "}"))
    assert answer.status_code in {400, 422}
    assert_problem(answer, answer.status_code)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        7,
        True,
        {},
        {"files": None},
        {"files": {}},
        {"files": []},
        {"files": "a.pdf"},
        {"files": [None]},
        {"files": [[]]},
        {"files": ["a.pdf"]},
        batch({}),
        batch({"name": "a.pdf"}),
        batch({"content": CONTENT}),
        batch({"name": 7, "content": CONTENT}),
        batch({"name": "a.pdf", "content": 7}),
        batch({"name": "a.pdf", "content": [CONTENT]}),
        batch({"name": "a.pdf", "content": None}),
        batch({**GOOD, "document_id": 1}),
        batch({**GOOD, "password": 7}),
        batch({**GOOD, "password": "p" * 513}),
        batch({**GOOD, "path": "/etc/passwd"}),
        batch({"document_id": "1"}),
        batch({"document_id": 1.0}),
        batch({"document_id": True}),
        batch({"document_id": 0}),
        batch({"document_id": -1}),
        batch({"document_id": 2**63}),
        batch({"document_id": 10**300}),
        batch({"document_id": None}),
        batch(user_id=1),
        batch(compression_level="ultra"),
        batch(compression_level=None),
        batch(compression_level=["low"]),
        batch(signed="yes"),
        batch(compress_attachments=None),
        batch(target_bytes=0),
    ],
    ids=lambda body: repr(body)[:60],
)
def test_json_of_another_form_is_refused_by_name(ann: Caller, body: Any) -> None:
    said = assert_problem(ann.post(BULK, json=body), 422, "invalid_input")
    assert said["fields"]


@pytest.mark.parametrize("quality", ["0", "101", '"high"', "80.5", "true", '"80"', "null", "1e400"])
def test_a_quality_that_is_none_is_refused(ann: Caller, quality: str) -> None:
    body = '{"files": [' + json.dumps(GOOD) + '], "image_quality": ' + quality + "}"
    said = assert_problem(ann.post(BULK, **as_json(body)), 422, "invalid_input")
    assert set(said["fields"]) == {"image_quality"}


@pytest.mark.parametrize("quality", ["0", "101", "high", "80.5", "true", "NaN", "", "9" * 5000])
def test_a_quality_that_is_none_is_refused_in_a_form(ann: Caller, quality: str) -> None:
    said = assert_problem(ann.compress(PDF, image_quality=quality), 422, "invalid_input")
    assert set(said["fields"]) == {"image_quality"}


@pytest.mark.parametrize(
    "fields",
    [
        {"compression_level": "ultra"},
        {"compression_level": "\x00"},
        {"compress_attachments": "perhaps"},
        {"user_id": "1"},
        {"password": "p" * 513},
        {"password": ["a", "b"]},
        {"files": "not a file"},
        {"image_quality": "1_0"},
        {"image_quality": "+5"},
        {"image_quality": "٨٠"},
        {"image_quality": ["80", "80"]},
        {"attachment": a_file(PDF, "b.pdf")},
    ],
    ids=repr,
)
def test_a_form_of_another_shape_is_refused_by_name(ann: Caller, fields: dict[str, Any]) -> None:
    data = {"files": a_file(PDF, "a.pdf"), **fields}
    said = assert_problem(ann.post(BULK, data=data), 422, "invalid_input")
    assert set(said["fields"]) == set(fields)


@pytest.mark.parametrize("more", [{"title": "x"}, {"other": a_file(PDF, "b.pdf")}], ids=repr)
def test_a_document_of_another_form_is_refused_by_name(ann: Caller, more: dict[str, Any]) -> None:
    answer = ann.post("/api/documents", data={"file": a_file(PDF, "a.pdf"), **more})
    assert set(assert_problem(answer, 422, "invalid_input")["fields"]) == set(more)


def test_two_files_where_one_is_taken_are_refused(ann: Caller) -> None:
    twice = {"file": [a_file(PDF, "a.pdf"), a_file(PDF, "b.pdf")]}
    assert_problem(ann.post("/api/documents", data=twice), 422, "invalid_input")


def test_a_million_entries_are_counted_and_not_looked_at(ann: Caller) -> None:
    for path, body in (
        (BULK, {"files": [1] * 100_000}),
        ("/api/jobs/bulk", {"action": "cancel", "ids": ["x"] * 100_000}),
        (BULK, {"files": [{"name": "a"}], **{f"unknown {n}": 1 for n in range(20_000)}}),
    ):
        answer = ann.post(path, json=body)
        assert answer.status_code in {413, 422}
        assert len(answer.data) < 10_000


def test_a_form_without_files_is_refused(ann: Caller) -> None:
    assert_problem(ann.post(BULK, data=form(image_quality="80")), 422, "invalid_input")
    misnamed = {"file": a_file(PDF, "a.pdf")}
    assert_problem(ann.post(BULK, data=misnamed), 422, "invalid_input")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--",
        b"--b\r\n",
        b"--b\r\nno header\r\n\r\nx\r\n--b--\r\n",
        b"--other\r\nContent-Disposition: form-data; name=files; filename=a.pdf\r\n\r\n%PDF-\r\n",
        b"--b\r\nContent-Disposition: form-data; name=files; filename=a.pdf\r\n\r\n%PDF-1.4 no end",
    ],
)
def test_a_form_that_cannot_be_read_is_refused(ann: Caller, body: bytes) -> None:
    answer = ann.post(BULK, data=body, content_type="multipart/form-data; boundary=b")
    assert answer.status_code in {400, 422}
    assert_problem(answer, answer.status_code)


def test_a_form_without_a_boundary_is_refused(ann: Caller) -> None:
    answer = ann.post(BULK, data=b"--b--", content_type="multipart/form-data")
    assert_problem(answer, 422, "invalid_input")


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/pdf", "application/x-www-form-urlencoded", "", "x"]
)
def test_a_body_of_another_media_type_is_refused(ann: Caller, media_type: str) -> None:
    answer = ann.post(BULK, data=json.dumps(batch()), content_type=media_type)
    assert_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("path", [BULK, "/api/documents", "/api/jobs/bulk", "/api/auth/login"])
def test_a_compressed_body_is_refused(ann: Caller, path: str) -> None:
    answer = ann.post(
        path,
        data=gzip.compress(b"{}"),
        content_type="application/json",
        headers={"Content-Encoding": "gzip"},
    )
    assert "gzip" in assert_problem(answer, 415, "unsupported_media_type")["detail"]


def test_no_body_at_all_is_refused(ann: Caller) -> None:
    assert_problem(ann.post(BULK), 422, "invalid_input")
    assert_problem(ann.post("/api/jobs/bulk"), 422, "invalid_input")
    assert_problem(ann.post("/api/documents"), 422, "invalid_input")


# ---------------------------------------------------------------- files and their names


BAD_NAMES = [
    "",
    " ",
    ".",
    "..",
    "/",
    "../a.pdf",
    "a/../../b.pdf",
    "..\\a.pdf",
    "/etc/passwd",
    "\\\\host\\share\\a.pdf",
    "C:\\a.pdf",
    "c:a.pdf",
    "a\x07.pdf",
    "a\r\nSet-Cookie: b.pdf",
    "\u202efdp.exe",
    "a\u2066.pdf",
    "n" * 4096,
    "n" * 256 + ".pdf",
    "d/" * 600 + "a.pdf",
    "\u00e4" * 200,
]


@pytest.mark.parametrize("name", [*BAD_NAMES, "a\x00.pdf", "a\ud800.pdf"], ids=ascii)
def test_a_name_that_is_not_what_it_seems_is_refused(ann: Caller, name: str) -> None:
    answer = ann.post(BULK, json=batch(GOOD, {"name": name, "content": CONTENT}))
    assert_problem(answer, 422, "invalid_input")


@pytest.mark.parametrize("name", [n for n in BAD_NAMES if n and "\r" not in n], ids=ascii)
@pytest.mark.parametrize(("path", "field"), [(BULK, "files"), ("/api/documents", "file")])
def test_a_parts_name_that_is_not_what_it_seems_is_refused(
    ann: Caller, name: str, path: str, field: str
) -> None:
    body = part("a.pdf", field) * (path == BULK) + part(name, field) + b"--b--\r\n"
    answer = ann.post(path, data=body, content_type="multipart/form-data; boundary=b")
    assert_problem(answer, 422, "invalid_input")


def part(name: str, field: str) -> bytes:
    quoted = name.replace("\\", "\\\\").encode()
    head = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n'
    return head % (field.encode(), quoted) + PDF + b"\r\n"


def a_zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a.txt", "text")
    return made.getvalue()


NO_PDFS = [a_zip(), b"text", b"\x00" * 2000, b" " * 2000 + b"%PDF-1.4", b"%PDF", b"<html>"]


@pytest.mark.parametrize("content", NO_PDFS, ids=lambda content: repr(content)[:20])
def test_what_is_no_pdf_is_refused_whatever_its_name(ann: Caller, content: bytes) -> None:
    said = assert_problem(ann.compress(PDF, ("b.pdf", content)), 422, "not_a_pdf")
    assert "b.pdf" in said["error"]
    assert set(said["fields"]) == {"files.1"}
    entry = {"name": "b.pdf", "content": base64.b64encode(content).decode()}
    assert_problem(ann.post(BULK, json=batch(GOOD, entry)), 422, "not_a_pdf")


def test_an_empty_file_is_refused(ann: Caller) -> None:
    assert_problem(ann.compress(PDF, ("b.pdf", b"")), 422, "empty_file")
    assert_problem(
        ann.post(BULK, json=batch(GOOD, {"name": "b", "content": "\n"})), 422, "invalid_base64"
    )
    assert_problem(ann.post(BULK, json=batch(GOOD, {"name": "b", "content": ""})), 422)
    nothing = {"file": a_file(b"", "b.pdf")}
    assert_problem(ann.post("/api/documents", data=nothing), 422, "empty_file")


@pytest.mark.parametrize(
    "content",
    [
        "!",
        "JVBER",
        "JVBERi0=JVBERi0=",
        "data:application/pdf;base64,JVBERi0xLjQ=",
        "JVBE_i0-",
        "JVBERi0xLjQ=\u00e9",
        "=",
        "====",
        CONTENT + "*",
        ("A" * 262_143 + "=") + CONTENT,
    ],
    ids=lambda content: content[:24],
)
def test_base64_that_is_none_is_refused(ann: Caller, content: str) -> None:
    answer = ann.post(BULK, json=batch(GOOD, {"name": "b.pdf", "content": content}))
    said = assert_problem(answer, 422, "invalid_base64")
    assert set(said["fields"]) == {"files.1.content"}


def test_a_document_that_there_is_not_is_not_found(ann: Caller) -> None:
    for unknown in [1, 999, 2**31, 2**63 - 1]:
        answer = ann.post(BULK, json=batch(GOOD, {"document_id": unknown}))
        assert_problem(answer, 404, "document_not_found")


def test_ten_thousand_files_are_too_many(ann: Caller) -> None:
    answer = ann.post(BULK, json=batch(*[{"name": "a.pdf", "content": "JVBERi0xLjQ="}] * 10_000))
    said = assert_problem(answer, 413, "too_many_files")
    assert "10000" in said["error"]
    assert "1000" in said["error"]


def test_ten_thousand_parts_are_too_many(ann: Caller) -> None:
    many = [(f"{number}.pdf", b"%PDF-1.4") for number in range(10_000)]
    said = assert_problem(ann.compress(*many[:1001]), 413, "too_many_files")
    assert "1001 files were sent; a batch has at most 1000" in said["error"]
    assert "with 1000 files" in assert_problem(ann.compress(*many), 413, "too_large")["error"]


def test_ten_thousand_passwords_are_too_many(ann: Caller) -> None:
    assert_problem(ann.compress(PDF, password=["p"] * 10_000), 413)


# ---------------------------------------------------------------- queries


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/jobs", "state=DONE"),
        ("/api/jobs", "state="),
        ("/api/jobs", "queue=fast"),
        ("/api/jobs", "q="),
        ("/api/jobs", "q=" + "x" * 201),
        ("/api/jobs", "q=%00"),
        ("/api/jobs", "kind="),
        ("/api/jobs", "since=yesterday"),
        ("/api/jobs", "since=2026-01-01T00:00:00"),
        ("/api/jobs", "since=10000-01-01T00:00:00Z"),
        ("/api/jobs", "limit=0"),
        ("/api/jobs", "limit=201"),
        ("/api/jobs", "limit=1.5"),
        ("/api/jobs", "limit=ten"),
        ("/api/jobs", "limit=" + "9" * 5000),
        ("/api/jobs", "cursor=%FF"),
        ("/api/jobs", "page=2"),
        ("/api/jobs", "owner_id=1"),
        ("/api/documents", "limit=-1"),
        ("/api/documents", "q=x"),
        (f"/api/jobs/{NOBODY}", "wait=31"),
        (f"/api/jobs/{NOBODY}", "wait=-1"),
        (f"/api/jobs/{NOBODY}", "wait=NaN"),
        (f"/api/jobs/{NOBODY}", "wait=inf"),
        (f"/api/jobs/{NOBODY}", "wait=1e400"),
        (f"/api/jobs/{NOBODY}", "wait=soon"),
        (f"/api/jobs/{NOBODY}", "timeout=3"),
        (f"/api/compress/jobs/{NOBODY}", "wait=NaN"),
        (f"/api/jobs/{NOBODY}/children", "limit=0"),
        (f"/api/jobs/{NOBODY}/log", "level=info"),
    ],
    ids=lambda value: value[:40],
)
def test_a_query_that_is_wrong_or_unknown_is_refused_by_name(
    ann: Caller, path: str, query: str
) -> None:
    said = assert_problem(ann.get(f"{path}?{query}"), 422, "invalid_input")
    assert set(said["fields"]) == {query.partition("=")[0]}


CURSORS = [
    "x",
    "e30",
    "bnVsbA",
    "====",
    "\u00e9",
    "A" * 500,
    encode_cursor([]),
    encode_cursor([None]),
    encode_cursor(["not hex"]),
    encode_cursor([True]),
    encode_cursor([1.5]),
    encode_cursor([1, 2]),
    encode_cursor([10**30]),
    encode_cursor([-(10**30)]),
    encode_cursor([{}]),
    encode_cursor(["0" * 33]),
]


@pytest.mark.parametrize("path", ["/api/jobs", "/api/documents"])
@pytest.mark.parametrize("cursor", CURSORS)
def test_a_cursor_that_was_tampered_with_is_refused(ann: Caller, path: str, cursor: str) -> None:
    said = assert_problem(ann.get(path, query_string={"cursor": cursor}), 422, "invalid_input")
    assert set(said["fields"]) == {"cursor"}


# ---------------------------------------------------------------- addresses and methods


@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/7",
        "/api/jobs/not-a-uuid",
        "/api/jobs/00000000-0000-0000-0000-00000000000g",
        f"/api/jobs/{NOBODY}%00",
        f"/api/jobs/{NOBODY}/",
        f"/api/jobs/{NOBODY}/nothing",
        "/jobs/7/status",
        "/api/compress/jobs/7",
        "/api/compress/download/..%2f..%2fetc%2fpasswd",
        "/api/documents/-1",
        "/api/documents/x",
        f"/api/documents/{2**31}",
        f"/api/documents/{2**63}",
        f"/api/documents/{'9' * 5000}",
        "/api/documents/\u0663",
        "/api/docs/../../app.py",
        "/api/docs/%2e%2e/__init__.py",
        "/api/docs/nothing.js",
        "/api/nothing",
        "/",
        "/" + "x" * 10_000,
    ],
    ids=lambda path: ascii(path)[:50],
)
def test_an_address_with_nothing_behind_it_is_not_found(ann: Caller, path: str) -> None:
    assert_problem(ann.get(path), 404, "not_found" if "documents/2" not in path else None)
    assert_problem(ann.delete(path), 404 if "/api/docs/" not in path else 405)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", BULK, {"POST", "OPTIONS"}),
        ("PUT", "/api/jobs", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/api/jobs/bulk", {"POST", "OPTIONS"}),
        ("PATCH", f"/api/jobs/{NOBODY}", {"GET", "HEAD", "DELETE", "OPTIONS"}),
        ("GET", f"/api/jobs/{NOBODY}/cancel", {"POST", "OPTIONS"}),
        ("DELETE", "/api/documents", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/api/jobs", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/api/jobs", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_is_not_allowed_says_which_are(
    ann: Caller, method: str, path: str, allowed: set[str]
) -> None:
    answer = ann.open(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_options_says_what_is_allowed_to_anybody(shared: Service) -> None:
    answer = shared.app.test_client().options("/api/jobs")
    assert (answer.status_code, answer.data) == (200, b"")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize("path", ["/api/jobs", "/api/documents", "/api/auth/me", "/healthz"])
def test_head_answers_as_get_does_without_the_body(ann: Caller, path: str) -> None:
    head, get = ann.open("HEAD", path), ann.get(path)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


def test_head_of_what_there_is_not_has_no_body_either(ann: Caller) -> None:
    answer = ann.open("HEAD", f"/api/jobs/{NOBODY}")
    assert (answer.status_code, answer.content_type, answer.data) == (404, PROBLEM, b"")


@pytest.mark.parametrize("sent", ["x", "-1", "1.5", "1" * 19, "\u0663", " ", "0x10"])
@pytest.mark.parametrize("path", ["/api/jobs/events"])
def test_an_event_id_that_no_stream_gave_out_is_refused(ann: Caller, path: str, sent: str) -> None:
    answer = ann.get(path, headers={"Last-Event-ID": sent.encode().decode("latin-1")})
    assert_problem(answer, 422, "invalid_input")


@pytest.mark.parametrize(
    "body",
    [
        {"action": "explode", "ids": [str(NOBODY)]},
        {"action": "cancel"},
        {"action": "cancel", "ids": []},
        {"action": "cancel", "ids": ["7"]},
        {"action": "cancel", "ids": [7]},
        {"action": "cancel", "ids": str(NOBODY)},
        {"action": "cancel", "ids": [str(NOBODY)] * 1001},
        {"action": "cancel", "ids": [str(NOBODY)], "filter": {}},
        {"action": "cancel", "filter": {"owner_id": 1}},
        {"action": "cancel", "filter": {"state": "DONE"}},
        {"action": "cancel", "filter": {"since": "2026-01-01"}},
        {"action": "cancel", "filter": {}, "terminate": "yes"},
        {"action": "cancel", "filter": {}, "limit": 1},
    ],
    ids=lambda body: repr(body)[:60],
)
def test_a_bulk_action_of_another_form_is_refused_by_name(ann: Caller, body: Any) -> None:
    said = assert_problem(ann.post("/api/jobs/bulk", json=body), 422, "invalid_input")
    assert said["fields"]


@pytest.mark.parametrize("body", [{"terminate": "yes"}, {"force": True}, [], "x", {"terminate": 7}])
def test_a_cancel_of_another_form_is_refused_before_the_job_is_looked_for(
    ann: Caller, body: Any
) -> None:
    assert_problem(ann.post(f"/api/jobs/{NOBODY}/cancel", json=body), 422, "invalid_input")
