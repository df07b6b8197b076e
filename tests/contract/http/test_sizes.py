"""More than is accepted, and less than was promised: refused at once, and nothing is kept."""

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract.http.conftest import OpenService
from tests.contract.http.service import (
    PROBLEM,
    Caller,
    RawAnswer,
    Server,
    Service,
    a_file,
    assert_problem,
    checked_problem,
    hang_up,
    read_answer,
    small_pdf,
)

PDF = small_pdf()
BULK = "/api/compress/bulk"
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.pdf"\r\n\r\n'
TYPES = {BULK: FORM, "/api/jobs/bulk": "application/json", "/api/documents": FORM}


@pytest.fixture(autouse=True)
def nothing_left_behind(shared: Service, ann: Caller) -> Iterator[None]:
    before = shared.kept()
    yield
    until(lambda: shared.kept() == before)


@pytest.fixture
def ann(shared: Service) -> Caller:
    return shared.sign_in("ann")


def until(condition: Callable[[], bool]) -> None:
    """Wait for what a server does after its answer, or after a caller has gone."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_says(said: dict[str, Any], *numbers: int) -> None:
    for number in numbers:
        assert str(number) in said["error"]


# ---------------------------------------------------------------- in process


def test_a_json_body_over_the_limit_says_the_limit_and_what_was_sent(
    shared: Service, ann: Caller
) -> None:
    limit = shared.settings.max_json_bytes
    answer = ann.post(BULK, data=b" " * (limit + 1), content_type="application/json")
    assert_says(assert_problem(answer, 413, "too_large"), limit, limit + 1)
    at_limit = ann.post(BULK, data=b" " * limit, content_type="application/json")
    assert_problem(at_limit, 400, "invalid_json")


def test_a_form_over_the_limit_says_the_limit_and_what_was_sent(
    shared: Service, ann: Caller
) -> None:
    limit = shared.settings.max_request_bytes
    answer = ann.compress(*[(f"{number}.pdf", bytes(900_000)) for number in range(4)])
    said = assert_problem(answer, 413, "too_large")
    assert_says(said, limit, answer.request.content_length or 0)


@pytest.mark.parametrize("path", [BULK, "/api/documents"])
def test_a_file_over_the_limit_says_the_limit(shared: Service, ann: Caller, path: str) -> None:
    limit = shared.settings.max_file_bytes
    field = "files" if path == BULK else "file"
    answer = ann.post(path, data={field: a_file(PDF + bytes(limit), "a.pdf")})
    assert_says(assert_problem(answer, 413, "file_too_large"), limit)


def test_a_file_over_the_limit_in_base64_says_the_limit(shared: Service, ann: Caller) -> None:
    limit = shared.settings.max_file_bytes
    content = base64.b64encode(PDF + bytes(limit)).decode()
    answer = ann.post(BULK, json={"files": [{"name": "a.pdf", "content": content}]})
    assert_says(assert_problem(answer, 413, "file_too_large"), limit, len(PDF) + limit)


def test_a_text_field_over_the_limit_is_refused(ann: Caller) -> None:
    assert_problem(ann.compress(PDF, password="p" * 1_100_000), 413, "too_large")


def test_more_than_an_owner_may_keep_says_the_limit_and_what_was_sent(
    make_service: OpenService,
) -> None:
    limit = len(PDF) * 3 // 2
    service = make_service(max_owner_bytes=limit)
    ann = service.sign_in()
    with service.leaving_nothing_behind():
        answer = ann.compress(PDF, small_pdf("other"))
        assert_says(assert_problem(answer, 413, "storage_full"), limit)
        answer = ann.post("/api/documents", data={"file": a_file(PDF + bytes(limit), "a.pdf")})
        assert_says(assert_problem(answer, 413, "storage_full"), limit, len(PDF) + limit)
    # What is there already needs no room of its own; another's room is another's.
    assert ann.compress(PDF).status_code == 202
    assert ann.compress(PDF, ("again.pdf", PDF)).status_code == 202
    assert service.sign_in("bob").compress(PDF).status_code == 202
    with service.leaving_nothing_behind():
        assert_problem(ann.compress(small_pdf("other")), 413, "storage_full")


# ---------------------------------------------------------------- over the wire


def head(caller: Caller, path: str, **headers: object) -> bytes:
    named = {
        "Host": "localhost",
        "Content-Type": TYPES[path],
        **caller.bearer,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


LAST_CHUNK = b"0\r\n\r\n"


def assert_raw_problem(answer: RawAnswer, status: int, code: str | None = None) -> dict[str, Any]:
    assert (answer.status, answer.headers.get("content-type")) == (status, PROBLEM), answer
    return checked_problem(answer.json, status, code)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("path", "limit"), [("/api/jobs/bulk", "max_json_bytes"), (BULK, "max_request_bytes")]
)
def test_too_large_is_said_before_the_body_is_sent(
    server: Server, ann: Caller, path: str, limit: str
) -> None:
    most = getattr(server.service.settings, limit)
    with server.connect() as wire:
        wire.sendall(head(ann, path, Content_Length=10**12))
        said = assert_raw_problem(read_answer(wire), 413, "too_large")
    assert_says(said, most, 10**12)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("path", "first", "more", "limit"),
    [
        ("/api/jobs/bulk", b"", b" " * 100_000, "max_json_bytes"),
        (BULK, PART % 0 + b"%PDF-", bytes(100_000), "max_file_bytes"),
        (BULK, b"", PART % 1 + b"%PDF-" + bytes(100_000) + b"\r\n", "max_request_bytes"),
        ("/api/documents", PART.replace(b"files", b"file") % 1, bytes(9**5), "max_file_bytes"),
    ],
)
@pytest.mark.parametrize("key", [{}, {"Idempotency_Key": "k"}], ids=["without key", "with key"])
def test_a_body_of_unknown_length_is_refused_once_it_is_too_large(
    server: Server,
    ann: Caller,
    path: str,
    first: bytes,
    more: bytes,
    limit: str,
    key: dict[str, str],
) -> None:
    with server.connect() as wire:
        wire.sendall(head(ann, path, Transfer_Encoding="chunked", **key))
        if first:
            wire.sendall(chunked(first))
        sending = threading.Thread(target=send_until_refused, args=(wire, chunked(more)))
        sending.start()
        answer = read_answer(wire)
        hang_up(wire)
        sending.join(20)
    assert_says(assert_raw_problem(answer, 413), getattr(server.service.settings, limit))


def send_until_refused(wire: socket.socket, chunk: bytes) -> None:
    try:
        for _ in range(1000):
            wire.sendall(chunk)
    except OSError:
        return


@pytest.mark.integration
def test_a_body_of_unknown_length_is_read_to_its_end(server: Server, ann: Caller) -> None:
    body = json.dumps({"action": "cancel", "filter": {}}).encode()
    sent = head(ann, "/api/jobs/bulk", Transfer_Encoding="chunked")
    sent += chunked(body[:7]) + chunked(body[7:]) + LAST_CHUNK
    answer = server.exchange(sent, close=False)
    assert (answer.status, answer.json["matched"]) == (200, 0)


UPLOAD = PART % 0 + PDF + b"\r\n" + PART % 1 + PDF * 50


@pytest.mark.integration
@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        (BULK, {"Content_Length": 200_000}, UPLOAD),
        (BULK, {"Content_Length": 200_000, "Idempotency_Key": "k"}, UPLOAD),
        (BULK, {"Transfer_Encoding": "chunked"}, chunked(UPLOAD)),
        (BULK, {"Transfer_Encoding": "chunked"}, b"fffff\r\n" + UPLOAD),
        (BULK, {"Transfer_Encoding": "chunked"}, chunked(UPLOAD) + b"nonsense\r\n"),
        ("/api/documents", {"Content_Length": 200_000}, UPLOAD.replace(b"files", b"file")),
        ("/api/jobs/bulk", {"Content_Length": 200}, b'{"action": "cancel",'),
        ("/api/jobs/bulk", {"Transfer_Encoding": "chunked"}, chunked(b'{"action":')),
        ("/api/jobs/bulk", {"Transfer_Encoding": "chunked"}, b"-5\r\n{}\r\n" + LAST_CHUNK),
    ],
)
def test_a_body_that_is_cut_off_leaves_nothing(
    server: Server, ann: Caller, path: str, headers: dict[str, Any], body: bytes
) -> None:
    answer = server.exchange(head(ann, path, **headers) + body)
    assert_raw_problem(answer, 400)
    with server.connect() as wire:
        wire.sendall(head(ann, path, **headers) + body)
        hang_up(wire)


@pytest.mark.integration
def test_what_follows_a_body_is_another_request(server: Server, ann: Caller) -> None:
    body = json.dumps({"action": "cancel", "filter": {}}).encode()
    request = head(ann, "/api/jobs/bulk", Content_Length=len(body)) + body
    with server.connect() as wire:
        wire.sendall(request + b"nonsense" + request)
        assert read_answer(wire).status == 200
        assert read_answer(wire).status in {0, 400}
