"""The virus scan of what is sent, by a real clamd that knows the EICAR file."""

import base64
import io
import os
import socket
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pikepdf
import pytest
from pikepdf import Dictionary, Name
from werkzeug.test import TestResponse

from backend.accounts.models import UserRole
from backend.storage import antivirus
from tests.clamd import EICAR, MOST_BYTES, MOST_SCANNED_BYTES, VIRUS, Daemon, running_daemon
from tests.contract.http.conftest import OpenService
from tests.contract.http.service import (
    Caller,
    Service,
    Worker,
    a_file,
    assert_problem,
    fixture_pdf,
    open_service,
    serving,
    small_pdf,
)

pytestmark = pytest.mark.needs("clamd")

PASSWORD = "open sesame"
IS_INFECTED = f"is infected ({VIRUS}.UNOFFICIAL)"  # clamd's word for a signature of one's own


@pytest.fixture(scope="module")
def clamd() -> Iterator[Daemon]:
    with running_daemon() as daemon:
        yield daemon


@pytest.fixture(params=["unix", "tcp"])
def service(clamd: Daemon, make_service: OpenService, request: pytest.FixtureRequest) -> Service:
    """A service that has what is sent scanned."""
    return make_service(clamd_url=getattr(clamd, f"{request.param}_url"))


def zipped(content: bytes, name: str = "eicar.com") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return made.getvalue()


def with_attachment(content: bytes, password: str = "", place: str = "names") -> bytes:
    """A PDF of one page with a file attached to it, and a password to open it with."""
    with pikepdf.new() as pdf:
        page = pdf.add_blank_page(page_size=(100, 100))
        if place == "names":
            pdf.attachments["eicar.com"] = pikepdf.AttachedFileSpec(pdf, content)
        else:  # a note on the page, and nothing that says what the stream is
            stream = pdf.make_stream(content, Params=Dictionary(Size=len(content)))
            file = Dictionary(Type=Name.Filespec, F="eicar.com", EF=Dictionary(F=stream))
            note = Dictionary(Subtype=Name.FileAttachment, Rect=[0, 0, 9, 9], FS=file)
            page.Annots = pikepdf.Array([note])
        lock = pikepdf.Encryption(user=password, owner="owner") if password else None
        made = io.BytesIO()
        pdf.save(made, encryption=lock or False, compress_streams=True)
    assert EICAR not in made.getvalue()  # clamd has to unpack it
    return made.getvalue()


NESTED = zipped(zipped(EICAR), "inner.zip")
INFECTED = {
    "the file itself": EICAR,
    "attached to a PDF": with_attachment(EICAR),
    "attached to a page": with_attachment(EICAR, place="page"),
    "attached to a PDF attached to a PDF": with_attachment(with_attachment(EICAR)),
    "in a ZIP in a ZIP": NESTED,
    "in a ZIP in a ZIP attached to a PDF": with_attachment(NESTED),
}


def as_form(caller: Caller, files: dict[str, bytes]) -> TestResponse:
    return caller.compress(*files.items())


def as_json(caller: Caller, files: dict[str, bytes]) -> TestResponse:
    entries = [
        {"name": name, "content": base64.b64encode(content).decode()}
        for name, content in files.items()
    ]
    return caller.post("/api/compress/bulk", json={"files": entries})


def as_document(caller: Caller, name: str, content: bytes) -> TestResponse:
    return caller.post("/api/documents", data={"file": a_file(content, name)})


def outcome_of(caller: Caller, answer: TestResponse, service: Service, worker: Worker) -> Any:
    """How a batch of one file ended, and what is told of the file."""
    assert answer.status_code == 202, answer.text
    worker.run(service)
    status = caller.get(f"/api/compress/jobs/{answer.json['job_id']}").json  # type: ignore[index]
    return status["status"], status["files"][0]  # type: ignore[index]


# ---------------------------------------------------------------- what is sent


@pytest.mark.parametrize("content", INFECTED.values(), ids=INFECTED)
@pytest.mark.parametrize("send", [as_form, as_json])
def test_an_infected_file_is_refused_and_named_and_nothing_is_stored(
    service: Service,
    ann: Caller,
    send: Callable[[Caller, dict[str, bytes]], TestResponse],
    content: bytes,
) -> None:
    with service.leaving_nothing_behind():
        answer = send(ann, {"clean.pdf": small_pdf(), "invoice.pdf": content})
        said = assert_problem(answer, 422, "infected")
    assert said["error"] == (
        f"files.1: invoice.pdf {IS_INFECTED}; it was refused and nothing was stored."
    )
    assert said["fields"] == {"files.1": [f"invoice.pdf {IS_INFECTED}."]}


@pytest.mark.parametrize("content", INFECTED.values(), ids=INFECTED)
def test_an_infected_document_is_refused(service: Service, ann: Caller, content: bytes) -> None:
    with service.leaving_nothing_behind():
        answer = as_document(ann, "letter.pdf", content)
        said = assert_problem(answer, 422, "infected")
    assert said["error"] == (
        f"file: letter.pdf {IS_INFECTED}; it was refused and nothing was stored."
    )


@pytest.mark.parametrize("send", [as_form, as_json])
def test_every_infected_file_of_a_batch_is_named(
    service: Service, ann: Caller, send: Callable[[Caller, dict[str, bytes]], TestResponse]
) -> None:
    files = {"a.pdf": INFECTED["attached to a PDF"], "b.pdf": small_pdf(), "c.pdf": EICAR}
    with service.leaving_nothing_behind():
        said = assert_problem(send(ann, files), 422, "infected")
    assert said["error"] == (
        f"files.0: a.pdf {IS_INFECTED}; files.2: c.pdf {IS_INFECTED};"
        " they were refused and nothing was stored."
    )
    assert set(said["fields"]) == {"files.0", "files.2"}


def test_a_sentence_names_some_of_very_many_and_the_fields_all(
    service: Service, ann: Caller
) -> None:
    answer = ann.compress(*[EICAR] * 25)
    assert "files.19: 19.pdf" in answer.json["error"]  # type: ignore[index]
    assert "; and 5 more; they were refused" in answer.json["error"]  # type: ignore[index]
    assert len(answer.json["fields"]) == 25  # type: ignore[index]


def test_a_clean_file_passes(service: Service, ann: Caller, worker: Worker) -> None:
    assert as_document(ann, "letter.txt", b"Dear Bob").status_code == 201
    answer = ann.compress(("clean.pdf", with_attachment(b"harmless")))
    assert outcome_of(ann, answer, service, worker)[0] == "completed"


def test_a_real_server_scans_too(clamd: Daemon, make_service: OpenService) -> None:
    service = make_service(clamd_url=clamd.unix_url)
    ann = service.sign_in()
    with serving(service) as server:
        head = (
            f"POST /api/documents HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ann.access_token}"
            "\r\nContent-Type: multipart/form-data; boundary=b\r\nConnection: close\r\n"
        )
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.zip"\r\n\r\n'
        body = part + NESTED + b"\r\n--b--\r\n"
        answer = server.exchange(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert (answer.status, answer.json["code"]) == (422, "infected")
        assert answer.json["fields"] == {"file": [f"a.zip {IS_INFECTED}."]}


def test_an_attachment_that_cannot_be_unpacked_is_refused(service: Service, ann: Caller) -> None:
    damaged = bytearray(with_attachment(os.urandom(1000)))
    start = damaged.index(b"stream\n", damaged.index(b"/EmbeddedFile /Length")) + 7
    damaged[start : start + 500] = bytes(500)
    with service.leaving_nothing_behind():
        answer = as_document(ann, "a.pdf", bytes(damaged))
        said = assert_problem(answer, 422, "unscannable")
    assert said["error"].startswith("a.pdf has attachments that cannot be unpacked")


def test_what_is_longer_than_clamd_takes_is_refused_by_the_name_of_its_limit(
    service: Service, ann: Caller
) -> None:
    with service.leaving_nothing_behind():
        answer = as_document(ann, "long.bin", os.urandom(MOST_BYTES + 1))
        said = assert_problem(answer, 413, "too_large_to_scan")
    assert "long.bin is larger than the virus scanner takes" in said["error"]
    assert "StreamMaxLength in clamd.conf" in said["error"]


def test_what_clamd_is_set_to_suspect_is_refused(service: Service, ann: Caller) -> None:
    with service.leaving_nothing_behind():
        answer = as_document(ann, "long.bin", os.urandom(MOST_SCANNED_BYTES + 1))
        said = assert_problem(answer, 422, "infected")
    assert "long.bin may be infected (Heuristics.Limits.Exceeded.MaxFileSize)" in said["error"]


# ---------------------------------------------------------------- what jobs find


def test_an_attachment_behind_a_password_is_found_once_the_password_is_known(
    service: Service, ann: Caller, worker: Worker
) -> None:
    locked = with_attachment(EICAR, PASSWORD)
    with service.leaving_nothing_behind():
        said = assert_problem(ann.compress(locked, password=PASSWORD), 422, "infected")
    assert f"0.pdf {IS_INFECTED}" in said["error"]
    kept = as_document(ann, "locked.pdf", locked)
    entry = {"document_id": kept.json["document"]["document_id"], "password": PASSWORD}  # type: ignore[index]
    answer = ann.post("/api/compress/bulk", json={"files": [entry]})
    status, file = outcome_of(ann, answer, service, worker)
    assert (status, file["status"], file["compressed_bytes"]) == ("failed", "failed", None)
    assert file["error"] == f"locked.pdf {IS_INFECTED}; it was not used."


def test_clean_files_behind_passwords_pass_and_stay_locked(
    service: Service, ann: Caller, worker: Worker
) -> None:
    locked = with_attachment(b"harmless", PASSWORD)
    answer = ann.compress(("locked.pdf", locked), password=PASSWORD)
    status, file = outcome_of(ann, answer, service, worker)
    assert (status, file["receipt"]["encrypted"]) == ("completed", True)


@pytest.mark.parametrize(
    ("fixture", "said"), [("password.pdf", "needs a password"), ("broken.pdf", "is damaged")]
)
def test_what_cannot_be_opened_fails_as_it_does_unscanned(
    service: Service, ann: Caller, worker: Worker, fixture: str, said: str
) -> None:
    answer = ann.compress((fixture, fixture_pdf(fixture)))
    assert said in outcome_of(ann, answer, service, worker)[1]["error"]


def test_a_document_that_was_kept_unscanned_is_found_by_the_job(
    clamd: Daemon, make_service: OpenService, worker: Worker
) -> None:
    before = make_service()
    kept = as_document(before.sign_in(), "old.pdf", INFECTED["attached to a PDF"])
    after = open_service(before.settings.data_dir, clamd_url=clamd.unix_url)
    ann = Caller(after.app, before.sign_in().id, before.sign_in().access_token)
    entry = {"document_id": kept.json["document"]["document_id"]}  # type: ignore[index]
    answer = ann.post("/api/compress/bulk", json={"files": [entry]})
    status, file = outcome_of(ann, answer, after, worker)
    assert status == "failed"
    assert file["error"] == f"old.pdf {IS_INFECTED}; it was not used."


# ---------------------------------------------------------------- a clamd that is away


def assert_nothing_gets_past(service: Service) -> None:
    ann = service.sign_in()
    with service.leaving_nothing_behind():
        for answer in (
            as_form(ann, {"a.pdf": small_pdf()}),
            as_json(ann, {"a.pdf": small_pdf()}),
            as_document(ann, "a.pdf", small_pdf()),
        ):
            said = assert_problem(answer, 503, "unavailable")
            assert said["error"].startswith("The virus scanner does not answer just now")
            assert int(answer.headers["Retry-After"]) > 0


def test_nothing_gets_past_a_clamd_that_was_stopped(make_service: OpenService) -> None:
    with running_daemon() as clamd:
        services = [make_service(clamd_url=url) for url in (clamd.unix_url, clamd.tcp_url)]
        for service in services:
            assert service.sign_in().compress(small_pdf()).status_code == 202
        clamd.stop()
        for service in services:
            assert_nothing_gets_past(service)


def test_a_clamd_that_hangs_is_given_up(
    make_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(antivirus, "REPLY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        assert_nothing_gets_past(make_service(clamd_url=url))


def test_a_clamd_that_hangs_at_a_scan_is_given_up(
    clamd: Daemon, make_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(antivirus, "SCAN_SECONDS", 0.2)
    # clamd waits for the rest of a content that does not end.
    monkeypatch.setattr(antivirus, "_stream", lambda link, _: link.sendall(b"\0\0\0\x09half"))
    assert_nothing_gets_past(make_service(clamd_url=clamd.unix_url))


def test_readiness_and_the_doctor_say_whether_clamd_answers(make_service: OpenService) -> None:
    with running_daemon() as clamd:
        service = make_service(clamd_url=clamd.unix_url)
        root = service.sign_in("root", UserRole.ADMIN)
        assert root.get("/readyz").json["checks"]["antivirus"] == "ok"  # type: ignore[index]
        assert "virus_scan" not in root.get("/api/admin/doctor").text
        clamd.stop()
        ready = root.get("/readyz")
        assert ready.status_code == 503
        said = ready.json["checks"]["antivirus"]  # type: ignore[index]
        assert said == "not reachable (Unavailable)"
        assert f"clamd does not answer at {clamd.unix_url}" in root.get("/api/admin/doctor").text
    assert "antivirus" not in make_service().sign_in().get("/readyz").text
