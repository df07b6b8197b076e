"""Downloads: whole or in parts, resumed, unchanged, and refused when there is nothing."""

from base64 import b64encode
from collections.abc import Iterator

import pytest
from werkzeug.test import TestResponse

from backend.jobs import artifacts
from tests.contract.http.service import (
    Caller,
    Service,
    Worker,
    assert_problem,
    close_service,
    open_service,
    small_pdf,
)

PDF = small_pdf()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> Iterator[Service]:
    """A service in which Ann has a finished batch of one file."""
    service = open_service(tmp_path_factory.mktemp("downloads"))
    entry = {"name": 'b\u00fccher/d\u00e9j\u00e0 "vu".pdf', "content": b64encode(PDF).decode()}
    service.sign_in("ann").post("/api/compress/bulk", json={"files": [entry]})
    worker.run(service)
    yield service
    close_service(service)


@pytest.fixture
def ann(downloads: Service) -> Caller:
    return downloads.sign_in("ann")


@pytest.fixture
def path(ann: Caller) -> str:
    return f"/api/compress/download/{ann.get('/api/jobs').json['jobs'][0]['id']}"


@pytest.fixture
def whole(ann: Caller, path: str) -> TestResponse:
    answer = ann.get(path)
    assert answer.status_code == 200
    return answer


def ask(caller: Caller, path: str, value: str, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): header for name, header in headers.items()}
    return caller.get(path, headers={"Range": value, **named})


def test_a_whole_file_says_what_it_is(whole: TestResponse) -> None:
    assert whole.data.startswith(b"%PDF-")
    assert whole.content_type == "application/pdf"
    assert whole.content_length == len(whole.data)
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["ETag"].strip('"').isalnum()
    assert whole.headers["Cache-Control"] == "private, no-cache"
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    disposition = whole.headers["Content-Disposition"]
    assert disposition.startswith("attachment; ")
    assert "filename*=UTF-8''d%C3%A9j%C3%A0%20%22vu%22.pdf" in disposition
    assert "b\u00fccher" not in disposition


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("\u6587\u6863.pdf", "download.pdf"),
        ("\u2025\uff0f\u2025\uff0fetc.pdf", "____etc.pdf"),
        ("na\u00efve.pdf", "naive.pdf"),
        ("\u6587\u6863", "download"),
    ],
)
def test_old_clients_are_given_a_plain_name(name: str, plain: str) -> None:
    assert artifacts.filename_options(f"folder/{name}")["filename"] == plain


def test_the_jobs_result_is_the_same_file(ann: Caller, path: str, whole: TestResponse) -> None:
    again = ann.get(path.replace("/api/compress/download/", "/api/jobs/") + "/result")
    assert (again.data, again.headers["ETag"]) == (whole.data, whole.headers["ETag"])


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=0-99", slice(0, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-1", slice(-1, None)),
        ("bytes=-100", slice(-100, None)),
        ("bytes=10-1000000", slice(10, None)),
        ("bytes=-1000000", slice(0, None)),
        ("bytes= 5-9", slice(5, 10)),
        ("BYTES=5-9", slice(5, 10)),
    ],
)
def test_a_range_is_that_part(
    ann: Caller, path: str, whole: TestResponse, wanted: str, part: slice
) -> None:
    answer, size = ask(ann, path, wanted), len(whole.data)
    assert (answer.status_code, answer.data) == (206, whole.data[part])
    start, stop, _ = part.indices(size)
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
    assert answer.content_length == stop - start
    assert answer.headers["ETag"] == whole.headers["ETag"]


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-1,5-6",  # one part only is given; whoever asks for more gets all
        "bytes=0-1, 1000000-",
        "bytes=5-2",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=--5",
        "bytes",
        "0-5",
        "pages=1-2",
        "bytes=1-2-3",
        "bytes=0x0-0x5",
        "bytes=" + ",".join(["0-"] * 500),
    ],
    ids=lambda wanted: wanted[:20],
)
def test_a_range_that_is_none_gives_the_whole(
    ann: Caller, path: str, whole: TestResponse, wanted: str
) -> None:
    answer = ask(ann, path, wanted)
    assert (answer.status_code, answer.data) == (200, whole.data)
    assert "Content-Range" not in answer.headers


@pytest.mark.parametrize(
    "wanted", ["bytes={size}-", "bytes={size}-{size}", "bytes=" + "9" * 30 + "-"]
)
def test_a_range_beyond_the_end_is_refused_with_the_size(
    ann: Caller, path: str, whole: TestResponse, wanted: str
) -> None:
    answer = ask(ann, path, wanted.format(size=len(whole.data)))
    assert_problem(answer, 416, "requested_range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(whole.data)}"


def test_a_download_is_resumed_where_it_broke_off(
    ann: Caller, path: str, whole: TestResponse
) -> None:
    received, etag = whole.data[:100], whole.headers["ETag"]
    while len(received) < len(whole.data):
        upto = len(received) + 200
        answer = ask(ann, path, f"bytes={len(received)}-{upto - 1}", If_Range=etag)
        assert answer.status_code == 206
        received += answer.data
    assert received == whole.data


@pytest.mark.parametrize(
    "seen",
    ['"another"', 'W/"{etag}"', "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2099 07:28:00 GMT"],
)
def test_a_part_of_what_may_have_changed_is_not_given(
    ann: Caller, path: str, whole: TestResponse, seen: str
) -> None:
    sent = seen.format(etag=whole.headers["ETag"].strip('"'))
    answer = ask(ann, path, "bytes=5-9", If_Range=sent)
    assert (answer.status_code, answer.data) == (200, whole.data)


@pytest.mark.parametrize("sent", ["{etag}", "W/{etag}", '"x", {etag}', "*"])
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-5"}, {"Range": "bytes=1000000-"}])
def test_what_is_unchanged_is_not_sent_again(
    ann: Caller, path: str, whole: TestResponse, sent: str, headers: dict[str, str]
) -> None:
    seen = sent.format(etag=whole.headers["ETag"])
    answer = ann.get(path, headers={**headers, "If-None-Match": seen})
    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["ETag"] == whole.headers["ETag"]
    assert "Content-Length" not in answer.headers


def test_what_has_changed_is_sent(ann: Caller, path: str, whole: TestResponse) -> None:
    answer = ann.get(path, headers={"If-None-Match": '"another"'})
    assert (answer.status_code, answer.data) == (200, whole.data)


def test_head_says_the_size_and_takes_no_range(ann: Caller, path: str, whole: TestResponse) -> None:
    answer = ann.open("HEAD", path, headers={"Range": "bytes=0-5"})
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.content_length == len(whole.data)


def test_what_is_not_ready_is_a_conflict_that_says_when_to_come_back(ann: Caller) -> None:
    job_id = ann.compress(PDF, PDF).json["job_id"]
    for path in (f"/api/compress/download/{job_id}", f"/api/jobs/{job_id}/result"):
        answer = ann.get(path)
        assert_problem(answer, 409, "not_ready")
        assert int(answer.headers["Retry-After"]) >= 1
    ann.post(f"/api/jobs/{job_id}/cancel")
    assert_problem(ann.get(f"/api/compress/download/{job_id}"), 409, "no_result")
    assert ann.delete(f"/api/jobs/{job_id}").status_code == 204
    assert_problem(ann.get(f"/api/compress/download/{job_id}"), 404)
