"""What never reaches the application is answered in the same shape by the server."""

import pytest

from tests.contract.http.service import PROBLEM, Server, checked_problem

pytestmark = pytest.mark.integration

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
REFUSED = {
    "a long address": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    "a long header": (GET + b"Authorization: Bearer " + b"a" * 20_000 + b"\r\n\r\n", 431),
    "many headers": (GET + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n", 431),
    "no protocol": (b"GET /healthz\r\n\r\n", 400),
    "another version": (b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    "a header without a name": (GET + b": value\r\n\r\n", 400),
    "two lengths": (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "a length that is none": (GET + b"Content-Length: many\r\n\r\n", 400),
    "an expectation": (GET + b"Expect: a miracle\r\n\r\n", 417),
    "an unknown coding": (GET + b"Transfer-Encoding: nonsense\r\n\r\n", 501),
}


@pytest.mark.parametrize("sent", REFUSED)
def test_a_request_that_cannot_be_read_gets_a_problem_document(server: Server, sent: str) -> None:
    raw, status = REFUSED[sent]
    answer = server.exchange(raw)
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    said = answer.json
    assert said.pop("request_id") == ""  # it got none: nothing else is known of it
    checked_problem({**said, "request_id": "-"}, status)


def test_a_caller_cannot_say_where_the_application_is_mounted(server: Server) -> None:
    for header in (b"SCRIPT_NAME: /elsewhere", b"PATH_INFO: /metrics", b"Script-Name: /x"):
        answer = server.exchange(GET + header + b"\r\n\r\n")
        assert (answer.status, answer.json) == (200, {"status": "ok"})
