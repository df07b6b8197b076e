"""The answers that earlier clients read, to the letter, around jobs that really run."""

import csv
import io
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pikepdf
import pytest
from marshmallow import ValidationError

from backend.clock import utc_now
from backend.compression.services import BulkCompressionService
from backend.db import transaction
from backend.errors import InvalidInput, NotFound
from backend.jobs import submit
from backend.jobs.duties import clean_up
from backend.storage.models import StoredFile
from tests.contract.http.service import (
    Caller,
    Service,
    Worker,
    a_file,
    assert_problem,
    close_service,
    fixture_pdf,
    form,
    open_service,
    small_pdf,
)

BULK = "/api/compress/bulk"
PHOTO, BROKEN, LOCKED = (fixture_pdf(f"{name}.pdf") for name in ("photo", "broken", "password"))
PASSWORD = "baz"
ACCEPTED = {"success", "job_id", "status", "file_count", "links"}
LINKS = {"self", "events", "cancel", "result"}
BATCH = {
    *("success", "job_id", "status", "progress", "completed_count", "file_count"),
    *("original_bytes", "compressed_bytes", "error", "error_message", "download_url"),
    *("files", "links"),
}
FILE = {
    *("name", "status", "percent", "original_bytes", "compressed_bytes"),
    *("error", "receipt", "job_id"),
}
RECEIPT = {
    *("pages", "changed", "signed", "encrypted", "images", "images_recoded", "note"),
    *("level", "before", "after", "similarity", "done", "left"),
    *("original_bytes", "compressed_bytes"),
}


def entry(name: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"name": name, "content": b64encode(content).decode(), **more}


def send(caller: Caller, *files: dict[str, Any], **settings: Any) -> str:
    """Send a batch as JSON; return its id."""
    answer = caller.post(BULK, json={"files": [*files], **settings})
    assert answer.status_code == 202, answer.text
    return str(answer.json["job_id"])


def batch_of(caller: Caller, job_id: str) -> dict[str, Any]:
    answer = caller.get(f"/api/compress/jobs/{job_id}")
    assert answer.status_code == 200
    return dict(answer.json)


def job_of(caller: Caller, job_id: str) -> dict[str, Any]:
    answer = caller.get(f"/api/jobs/{job_id}")
    assert answer.status_code == 200
    return dict(answer.json)


# ---------------------------------------------------------------- a batch from its start


def test_a_batch_is_accepted_at_once(ann: Caller) -> None:
    files = [entry(f"{number}.pdf", small_pdf(str(number))) for number in range(3)]
    body = {"files": files, "compression_level": "medium", "image_quality": 80}
    answer = ann.post(BULK, json=body)
    assert (answer.status_code, set(answer.json)) == (202, ACCEPTED)
    job_id = answer.json["job_id"]
    assert str(UUID(job_id)) == job_id
    assert (answer.json["success"], answer.json["file_count"]) == (True, 3)
    assert answer.json["status"] in {"pending", "processing"}
    assert set(answer.json["links"]) == LINKS
    assert answer.headers["Location"] == answer.json["links"]["self"] == f"/api/jobs/{job_id}"
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_form_with_fields_called_files_is_the_same(ann: Caller) -> None:
    answer = ann.compress(small_pdf("1"), small_pdf("2"), compression_level="low")
    assert (answer.status_code, set(answer.json)) == (202, ACCEPTED)
    files = batch_of(ann, answer.json["job_id"])["files"]
    assert [file["name"] for file in files] == ["0.pdf", "1.pdf"]


def test_a_batch_that_waits_says_so_file_by_file(ann: Caller) -> None:
    batch = batch_of(ann, send(ann, entry("a.pdf", PHOTO), entry("b.pdf", LOCKED)))
    assert (set(batch), set(batch["files"][0])) == (BATCH, FILE)
    assert (batch["success"], batch["status"]) == (True, "processing")
    assert (batch["progress"], batch["completed_count"], batch["file_count"]) == (0, 0, 2)
    assert (batch["error"], batch["error_message"], batch["download_url"]) == (None, None, None)
    assert batch["original_bytes"] == len(PHOTO) + len(LOCKED)
    assert batch["files"][0] == {
        "name": "a.pdf",
        "status": "pending",
        "percent": 0,
        "original_bytes": len(PHOTO),
        "compressed_bytes": None,
        "error": None,
        "receipt": None,
        "job_id": batch["files"][0]["job_id"],
    }
    assert_problem(ann.get(f"/api/compress/download/{batch['job_id']}"), 409, "not_ready")


def test_a_job_that_waits_says_why(ann: Caller) -> None:
    batch = batch_of(ann, send(ann, entry("a.pdf", PHOTO)))
    said = job_of(ann, batch["files"][0]["job_id"])
    assert (said["status"], said["job"]["state"], said["job"]["percent"]) == (
        "pending",
        "PENDING",
        0,
    )
    assert said["job"]["waiting"]["reason"] == "no_worker"
    assert said["job"]["waiting"]["message"]


# ---------------------------------------------------------------- a batch to its end


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> Iterator[tuple[Caller, str]]:
    """Ann, and a batch of six files, of which one is broken and one locked, that has ended."""
    service = open_service(tmp_path_factory.mktemp("ended"))
    ann = service.sign_in("ann")
    kept = ann.post("/api/documents", data={"file": a_file(PHOTO, "kept/before.pdf")})
    document = {"document_id": kept.json["document"]["document_id"]}
    job_id = send(
        ann,
        entry("holiday/photo.pdf", PHOTO),
        entry("Holiday\\PHOTO.pdf", small_pdf("another")),
        entry("=SUM(A1).pdf", BROKEN),
        entry("report.csv", small_pdf("no report")),
        entry("locked.pdf", LOCKED, password=PASSWORD),
        document,
        compression_level="medium",
    )
    worker.run(service)
    yield ann, job_id
    close_service(service)


def test_the_batch_says_what_became_of_each_file(ended: tuple[Caller, str]) -> None:
    batch = batch_of(*ended)
    assert set(batch) == BATCH
    assert (batch["success"], batch["status"], batch["progress"]) == (True, "completed", 100)
    assert (batch["completed_count"], batch["file_count"]) == (6, 6)
    assert (batch["error"], batch["error_message"]) == (None, None)
    assert batch["download_url"] == f"/api/compress/download/{ended[1]}"
    assert [file["name"] for file in batch["files"]] == [
        "holiday/photo.pdf",
        "Holiday/PHOTO.pdf",
        "=SUM(A1).pdf",
        "report.csv",
        "locked.pdf",
        "kept/before.pdf",
    ]
    statuses = [file["status"] for file in batch["files"]]
    assert statuses == ["completed"] * 2 + ["failed"] + ["completed"] * 3
    photo, broken = batch["files"][0], batch["files"][2]
    assert (set(photo), set(photo["receipt"])) == (FILE, RECEIPT)
    assert (photo["percent"], photo["original_bytes"], photo["error"]) == (100, len(PHOTO), None)
    assert 0 < photo["compressed_bytes"] < len(PHOTO)
    assert photo["receipt"]["compressed_bytes"] == photo["compressed_bytes"]
    assert (broken["receipt"], broken["compressed_bytes"]) == (None, None)
    assert broken["error"]
    completed = [file for file in batch["files"] if file["status"] == "completed"]
    assert batch["compressed_bytes"] == sum(file["compressed_bytes"] for file in completed)


def test_the_job_says_that_it_is_done(ended: tuple[Caller, str]) -> None:
    said = job_of(*ended)
    assert set(said) == {
        *("success", "job_id", "status", "error_message", "job", "result", "links"),
    }
    assert (said["success"], said["status"], said["error_message"]) == (True, "completed", None)
    job = said["job"]
    assert job["task_id"] == job["id"] == said["job_id"] == ended[1]
    assert (job["state"], job["percent"], job["error"]) == ("SUCCESS", 100, None)
    assert isinstance(job["percent"], int)
    assert job["status"]
    assert said["result"].items() >= {"file_count": 6, "compressed_count": 5}.items()
    for name in ("created_at", "started_at", "ended_at"):
        assert datetime.fromisoformat(job[name]).utcoffset() == timedelta(0)


def test_the_alias_says_it_in_its_own_words(ended: tuple[Caller, str]) -> None:
    caller, job_id = ended
    answer = caller.get(f"/jobs/{job_id}/status")
    assert answer.status_code == 200
    assert set(answer.json) == {"job_id", "state", "meta", "result"}
    assert (answer.json["job_id"], answer.json["state"]) == (job_id, "SUCCESS")
    assert set(answer.json["meta"]) == {"stage", "message", "percent"}
    assert answer.json["meta"]["percent"] == 100
    assert answer.json["result"] == job_of(*ended)["result"]


def test_the_archive_has_safe_names_of_their_own_and_a_report(ended: tuple[Caller, str]) -> None:
    caller, job_id = ended
    answer = caller.get(f"/api/compress/download/{job_id}")
    assert (answer.status_code, answer.content_type) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "report.csv",
            "holiday/photo.pdf",
            "Holiday/PHOTO (2).pdf",
            "report (2).csv",
            "locked.pdf",
            "kept/before.pdf",
        ]
        assert len(archive.read("holiday/photo.pdf")) < len(PHOTO)
        for name in archive.namelist()[1:]:
            password = PASSWORD if name == "locked.pdf" else ""
            with pikepdf.open(io.BytesIO(archive.read(name)), password=password) as pdf:
                assert len(pdf.pages) >= 1
        rows = [*csv.DictReader(io.StringIO(archive.read("report.csv").decode("utf-8-sig")))]
    assert [row["in_archive"] for row in rows][2:4] == ["", "report (2).csv"]
    assert rows[2]["name"] == "'=SUM(A1).pdf"  # no spreadsheet runs it
    assert rows[2]["status"] == "failed"
    assert rows[2]["note"]
    assert int(rows[0]["compressed_bytes"]) < int(rows[0]["original_bytes"]) == len(PHOTO)


def test_a_download_that_broke_off_is_resumed(ended: tuple[Caller, str]) -> None:
    caller, job_id = ended
    path = f"/api/compress/download/{job_id}"
    whole = caller.get(path)
    rest = caller.get(path, headers={"Range": "bytes=1000-", "If-Range": whole.headers["ETag"]})
    assert rest.status_code == 206
    assert whole.data[:1000] + rest.data == whole.data


def test_the_list_shows_the_batch_as_one(ended: tuple[Caller, str]) -> None:
    caller, job_id = ended
    answer = caller.get("/api/jobs?state=SUCCESS&kind=compression.compress_bulk&q=photo")
    assert set(answer.json) == {"success", "jobs", "next_cursor"}
    assert [job["id"] for job in answer.json["jobs"]] == [job_id]
    children = caller.get(f"/api/jobs/{job_id}/children?limit=4").json
    more = caller.get(f"/api/jobs/{job_id}/children?cursor={children['next_cursor']}").json
    labels = [job["label"] for job in [*children["jobs"], *more["jobs"]]]
    assert labels == [file["name"] for file in batch_of(*ended)["files"]]


def test_a_job_tells_of_its_attempts_and_what_it_logged(ended: tuple[Caller, str]) -> None:
    caller, _ = ended
    broken = batch_of(*ended)["files"][2]
    attempts = caller.get(f"/api/jobs/{broken['job_id']}/attempts").json["attempts"]
    assert [(one["number"], one["outcome"]) for one in attempts] == [(1, "failed")]
    assert attempts[0]["error"] == broken["error"]
    log = caller.get(f"/api/jobs/{broken['job_id']}/log").json["lines"]
    assert (log[-1]["level"], log[-1]["message"]) == ("error", broken["error"])
    photo = batch_of(*ended)["files"][0]
    lines = caller.get(f"/api/jobs/{photo['job_id']}/log").json["lines"]
    assert any("holiday/photo.pdf" in line["message"] for line in lines)


# ---------------------------------------------------------------- other ends


def test_of_a_single_file_the_download_is_the_pdf_itself(
    service: Service, ann: Caller, worker: Worker
) -> None:
    job_id = send(ann, entry("holiday/photo.pdf", PHOTO))
    worker.run(service)
    answer = ann.get(f"/api/compress/download/{job_id}")
    assert (answer.status_code, answer.content_type) == (200, "application/pdf")
    assert answer.headers["Content-Disposition"] == "attachment; filename=photo.pdf"
    assert len(answer.data) == batch_of(ann, job_id)["compressed_bytes"] < len(PHOTO)
    with pikepdf.open(io.BytesIO(answer.data)) as pdf:
        assert len(pdf.pages) == 1


def test_a_batch_of_which_nothing_could_be_compressed_fails(
    service: Service, ann: Caller, worker: Worker
) -> None:
    job_id = send(ann, entry("broken.pdf", BROKEN))
    worker.run(service)
    batch, said = batch_of(ann, job_id), job_of(ann, job_id)
    assert (batch["status"], batch["files"][0]["status"]) == ("failed", "failed")
    assert said["status"] == "failed"
    assert said["job"]["state"] == "FAILURE"
    assert said["job"]["percent"] < 100
    sentence = said["job"]["error"]
    assert sentence == said["error_message"] == batch["error"] == batch["error_message"]
    assert sentence == batch["files"][0]["error"]
    alias = ann.get(f"/jobs/{job_id}/status").json
    assert (alias["state"], alias["meta"]["error"], alias["result"]) == ("FAILURE", sentence, None)
    assert_problem(ann.get(f"/api/compress/download/{job_id}"), 409, "no_result")


@pytest.mark.parametrize("way", ["json", "one for each", "one for all"])
def test_a_password_opens_its_file(service: Service, ann: Caller, worker: Worker, way: str) -> None:
    if way == "json":
        plain, locked = entry("a.pdf", small_pdf()), entry("b.pdf", LOCKED, password=PASSWORD)
        job_id = send(ann, plain, locked)
    else:
        passwords = ["", PASSWORD] if way == "one for each" else PASSWORD
        files = [small_pdf(), LOCKED] if way == "one for each" else [LOCKED, LOCKED + b"\n"]
        job_id = ann.post(BULK, data=form(*files, password=passwords)).json["job_id"]
    worker.run(service)
    batch = batch_of(ann, job_id)
    assert [file["status"] for file in batch["files"]] == ["completed"] * 2, batch
    assert batch["files"][1]["receipt"]["encrypted"] is True


def test_a_file_without_its_password_fails_alone(
    service: Service, ann: Caller, worker: Worker
) -> None:
    locked = entry("b.pdf", LOCKED, password="wrong")
    job_id = send(ann, entry("a.pdf", small_pdf()), locked, entry("c.pdf", LOCKED))
    worker.run(service)
    batch = batch_of(ann, job_id)
    assert [file["status"] for file in batch["files"]] == ["completed", "failed", "failed"]
    assert "password" in batch["files"][1]["error"]
    assert batch["status"] == "completed"


def test_passwords_are_shown_to_nobody(service: Service, ann: Caller, worker: Worker) -> None:
    job_id = send(ann, entry("a.pdf", LOCKED, password="a secret of mine"))
    worker.run(service)
    child = batch_of(ann, job_id)["files"][0]["job_id"]
    for path in (f"/api/jobs/{child}", f"/api/jobs/{child}/log", f"/api/compress/jobs/{job_id}"):
        assert "a secret of mine" not in ann.get(path).text
    database = service.settings.data_dir / "sluice.db"
    for written in (database, database.with_name("sluice.db-wal")):
        assert not written.exists() or b"a secret of mine" not in written.read_bytes()


# ---------------------------------------------------------------- cancelling


def test_a_batch_that_waits_is_cancelled_at_once(
    service: Service, ann: Caller, worker: Worker
) -> None:
    job_id = send(ann, entry("a.pdf", PHOTO), entry("b.pdf", PHOTO))
    answer = ann.post(f"/api/jobs/{job_id}/cancel", json={"terminate": False})
    assert (answer.status_code, answer.json["status"]) == (200, "cancelled")
    assert answer.json["job"]["state"] == "REVOKED"
    assert worker.run(service) == 0
    batch = batch_of(ann, job_id)
    assert (batch["status"], batch["download_url"]) == ("cancelled", None)
    assert {file["status"] for file in batch["files"]} == {"cancelled"}
    assert ann.get(f"/jobs/{job_id}/status").json["state"] == "REVOKED"
    assert ann.post(f"/api/jobs/{job_id}/cancel").json["status"] == "cancelled"


@pytest.mark.parametrize("terminate", [False, True])
def test_a_batch_that_runs_is_cancelled_and_keeps_what_is_done(
    service: Service, ann: Caller, worker: Worker, terminate: bool
) -> None:
    many = [entry(f"{number}.pdf", PHOTO) for number in range(12)]
    job_id = send(ann, *many, compression_level="high")
    worker.start(service)
    etag, completed = "", 0
    while completed == 0:
        answer = ann.get(f"/api/compress/jobs/{job_id}?wait=10", headers={"If-None-Match": etag})
        if answer.status_code == 200:
            etag, completed = answer.headers["ETag"], answer.json["completed_count"]
    answer = ann.post(f"/api/jobs/{job_id}/cancel", json={"terminate": terminate})
    assert answer.json["job"]["state"] in {"CANCELLING", "REVOKED"}
    assert worker.finish() < len(many)
    batch = batch_of(ann, job_id)
    assert batch["status"] == "cancelled"
    statuses = [file["status"] for file in batch["files"]]
    assert set(statuses) == {"completed", "cancelled"}
    assert statuses[0] == "completed"
    assert batch["files"][0]["receipt"]["compressed_bytes"] < len(PHOTO)
    assert ann.get(f"/api/jobs/{batch['files'][0]['job_id']}/result").data.startswith(b"%PDF-")
    assert not [*(service.settings.workspaces / "jobs").glob("*")]


def test_what_was_cancelled_can_be_tried_again(
    service: Service, ann: Caller, worker: Worker
) -> None:
    job_id = send(ann, entry("a.pdf", small_pdf("a")), entry("b.pdf", small_pdf("b")))
    ann.post(f"/api/jobs/{job_id}/cancel")
    answer = ann.post(f"/api/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json["status"]) == (202, "processing")
    worker.run(service)
    assert batch_of(ann, job_id)["status"] == "completed"
    assert_problem(ann.post(f"/api/jobs/{job_id}/retry"), 409, "not_retryable")


def test_a_child_that_is_cancelled_shows_in_its_batch(service: Service, ann: Caller) -> None:
    job_id = send(ann, entry("a.pdf", small_pdf("a")), entry("b.pdf", small_pdf("b")))
    path = f"/api/compress/jobs/{job_id}"
    seen = ann.get(path)
    child = f"/api/jobs/{seen.json['files'][0]['job_id']}"
    assert ann.post(f"{child}/cancel").status_code == 200

    now = ann.get(path, headers={"If-None-Match": seen.headers["ETag"]})
    assert (now.status_code, now.json["completed_count"]) == (200, 1)
    assert now.json["files"][0]["status"] == "cancelled"
    assert job_of(ann, job_id)["job"]["items_done"] == 1


def test_a_child_stays_for_as_long_as_its_batch_is_active(
    service: Service, ann: Caller, worker: Worker
) -> None:
    job_id = send(ann, entry("a.pdf", small_pdf("a")), entry("b.pdf", small_pdf("b")))
    child = f"/api/jobs/{batch_of(ann, job_id)['files'][0]['job_id']}"
    ann.post(f"{child}/cancel")
    assert_problem(ann.delete(child), 409, "job_active")
    worker.run(service)
    assert batch_of(ann, job_id)["status"] == "completed"
    assert ann.delete(child).status_code == 204


def test_a_document_that_is_deleted_is_still_compressed(
    service: Service, ann: Caller, worker: Worker
) -> None:
    kept = ann.post("/api/documents", data={"file": a_file(PHOTO, "kept.pdf")}).json["document"]
    uploaded, named = (
        send(ann, entry("a.pdf", PHOTO)),
        send(ann, {"document_id": kept["document_id"]}),
    )
    assert ann.delete(f"/api/documents/{kept['document_id']}").status_code == 204
    with service.app.app_context(), transaction() as session:
        submit(session, clean_up, None)
    worker.run(service, "low_priority")
    worker.run(service)
    assert [batch_of(ann, job_id)["status"] for job_id in (uploaded, named)] == ["completed"] * 2


def test_a_documents_id_is_never_given_out_twice(ann: Caller) -> None:
    ids = []
    for _ in range(2):
        kept = ann.post("/api/documents", data={"file": a_file(PHOTO, "kept.pdf")}).json["document"]
        ids.append(kept["document_id"])
        ann.delete(f"/api/documents/{kept['document_id']}")
    assert ids[0] < ids[1]


# ---------------------------------------------------------------- expiry


def test_what_has_expired_is_gone(service: Service, ann: Caller, worker: Worker) -> None:
    job_id = send(ann, entry("a.pdf", small_pdf()))
    worker.run(service)
    path = f"/api/compress/download/{job_id}"
    assert ann.get(path).status_code == 200
    with service.app.app_context(), transaction() as session:
        for file in session.query(StoredFile):
            file.expires_at = utc_now() - timedelta(seconds=1)
    assert_problem(ann.get(path), 410)
    with service.app.app_context(), transaction() as session:
        submit(session, clean_up, None)
    assert worker.run(service, "low_priority") == 1
    assert (service.kept()["stored_files"], service.kept()["blobs"]) == (0, 0)
    assert_problem(ann.get(path), 410)
    assert_problem(ann.get(f"/api/jobs/{job_id}/result"), 410)
    assert batch_of(ann, job_id)["status"] == "completed"


# ---------------------------------------------------------------- from Python


def test_the_service_has_the_names_that_earlier_callers_use(
    service: Service, ann: Caller, worker: Worker
) -> None:
    bulk = BulkCompressionService()
    files = [{"name": "a.pdf", "content": PHOTO}, entry("b.pdf", small_pdf())]
    with service.app.app_context():
        job = bulk.create_bulk_job(ann.id, files, {"compression_level": "low"})
        assert job.task_id == str(job.id)
        task_id = bulk.process_bulk_job_async(job.id)
        assert task_id == job.task_id
        assert bulk.get_task_status(task_id) == {"state": "PROGRESS", "progress": 0}
        assert bulk.get_job_progress(job.id) == {"completed_count": 0, "file_count": 2}
        job_id = str(job.id)
        worker.run(service)  # while the caller's session goes on
        assert bulk.get_task_status(job_id) == {"state": "SUCCESS", "progress": 100}
        assert bulk.get_job_progress(job_id) == {"completed_count": 2, "file_count": 2}
    assert batch_of(ann, job_id)["status"] == "completed"


def test_the_service_takes_a_documents_id_and_no_settings(service: Service, ann: Caller) -> None:
    kept = ann.post("/api/documents", data={"file": a_file(small_pdf(), "kept.pdf")}).json
    with service.app.app_context():
        job = BulkCompressionService().create_bulk_job(
            ann.id, [{"document_id": kept["document"]["document_id"]}]
        )
        job_id = str(job.id)
    assert [file["name"] for file in batch_of(ann, job_id)["files"]] == ["kept.pdf"]


@pytest.mark.parametrize(
    ("files", "settings", "refusal"),
    [
        ([], {}, ValidationError),
        ([{"name": "a.pdf", "content": b"text"}], {}, InvalidInput),
        ([{"name": "../a.pdf", "content": small_pdf()}], {}, InvalidInput),
        ([{"name": "a.pdf", "content": small_pdf()}], {"image_quality": 0}, ValidationError),
        ([{"document_id": 7}], {}, NotFound),
    ],
)
def test_the_service_refuses_what_the_route_refuses(
    service: Service, ann: Caller, files: Any, settings: Any, refusal: type[Exception]
) -> None:
    with service.leaving_nothing_behind(), service.app.app_context(), pytest.raises(refusal):
        BulkCompressionService().create_bulk_job(ann.id, files, settings)


def test_the_service_knows_no_stranger(service: Service) -> None:
    with service.app.app_context(), pytest.raises(NotFound, match="no user 77"):
        BulkCompressionService().create_bulk_job(77, [{"name": "a.pdf", "content": PHOTO}])


def test_the_service_knows_no_job_of_another_kind(service: Service, ann: Caller) -> None:
    bulk = BulkCompressionService()
    child = batch_of(ann, send(ann, entry("a.pdf", small_pdf())))["files"][0]["job_id"]
    with service.app.app_context():
        for job_id in (child, UUID(int=7)):
            with pytest.raises(NotFound):
                bulk.get_task_status(job_id)
