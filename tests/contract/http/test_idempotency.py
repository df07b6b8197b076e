"""Idempotency-Key: the same key and body give the first answer again, and make nothing twice."""

import base64
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from werkzeug.test import TestResponse

from backend.compression import routes as compression_routes
from backend.db import transaction
from backend.http import idempotency
from backend.http.idempotency import IdempotencyKey, forget_old
from tests.contract.http.service import (
    Caller,
    Service,
    a_file,
    assert_problem,
    form,
    small_pdf,
)

PDF, OTHER = small_pdf(), small_pdf("other")
BULK = "/api/compress/bulk"
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


def body_of(pdf: bytes, name: str = "a.pdf") -> dict[str, Any]:
    return {"files": [{"name": name, "content": base64.b64encode(pdf).decode()}]}


def send_json(caller: Caller, pdf: bytes = PDF, name: str = "a.pdf", **sent: Any) -> TestResponse:
    return caller.post(BULK, json=body_of(pdf, name), headers=KEY, **sent)


def send_form(caller: Caller, pdf: bytes = PDF, name: str = "a.pdf") -> TestResponse:
    return caller.post(BULK, data=form((name, pdf)), headers=KEY)


def send_document(caller: Caller, pdf: bytes = PDF, name: str = "a.pdf") -> TestResponse:
    return caller.post("/api/documents", data={"file": a_file(pdf, name)}, headers=KEY)


SENDERS = [send_json, send_form, send_document]


@pytest.mark.parametrize("send", SENDERS)
def test_the_same_again_gives_the_first_answer_again(
    service: Service, ann: Caller, send: Any
) -> None:
    first = send(ann)
    assert first.status_code in {201, 202}
    with service.leaving_nothing_behind():
        again = send(ann)
    assert (again.status_code, again.json) == (first.status_code, first.json)
    for header in ("Location", "Retry-After", "Content-Type"):
        assert again.headers.get(header) == first.headers.get(header)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers


@pytest.mark.parametrize("send", SENDERS)
@pytest.mark.parametrize("other", [{"pdf": OTHER}, {"name": "b.pdf"}])
def test_another_body_under_the_same_key_is_refused(
    service: Service, ann: Caller, send: Any, other: dict[str, Any]
) -> None:
    send(ann)
    with service.leaving_nothing_behind():
        assert_problem(send(ann, **other), 422, "idempotency_key_reused")


def test_other_settings_in_a_form_are_another_body(ann: Caller) -> None:
    ann.post(BULK, data=form(PDF, image_quality="80"), headers=KEY)
    answer = ann.post(BULK, data=form(PDF, image_quality="70"), headers=KEY)
    assert_problem(answer, 422, "idempotency_key_reused")


def test_a_key_is_its_owners_and_its_addresss(ann: Caller, bob: Caller) -> None:
    answers = [send_json(ann), send_json(bob), send_document(ann)]
    assert [answer.status_code for answer in answers] == [202, 202, 201]
    assert answers[0].json["job_id"] != answers[1].json["job_id"]


def test_without_a_key_each_request_is_its_own(ann: Caller) -> None:
    assert ann.compress(PDF).json["job_id"] != ann.compress(PDF).json["job_id"]


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "\x7f", "\u00a0"])
def test_a_key_that_is_none_is_refused(service: Service, ann: Caller, key: str) -> None:
    with service.leaving_nothing_behind():
        answer = ann.post(BULK, json=body_of(PDF), headers={"Idempotency-Key": key})
        said = assert_problem(answer, 422, "invalid_input")
    assert set(said["fields"]) == {"Idempotency-Key"}


def test_a_key_may_have_255_characters(ann: Caller) -> None:
    key = {"Idempotency-Key": "k" * 255}
    first, again = (ann.post(BULK, json=body_of(PDF), headers=key) for _ in range(2))
    assert first.json == again.json


@pytest.mark.parametrize("send", SENDERS)
def test_a_request_that_was_refused_leaves_its_key_free(
    service: Service, ann: Caller, send: Any
) -> None:
    with service.leaving_nothing_behind():
        assert_problem(send(ann, name="../a.pdf"), 422, "invalid_input")
    assert send(ann).status_code in {201, 202}


def test_a_body_over_the_limit_is_refused_with_a_key_too(service: Service, ann: Caller) -> None:
    large = b" " * (service.settings.max_json_bytes + 1)
    with service.leaving_nothing_behind():
        answer = ann.post(BULK, data=large, content_type="application/json", headers=KEY)
        assert_problem(answer, 413, "too_large")


def test_while_the_first_is_under_way_the_second_is_told_so(
    ann: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    spools_of = compression_routes.spools_of

    def slow(*args: Any) -> Any:
        # It waits where it holds no lock, as one whose upload is large does.
        begun.set()
        assert go_on.wait(20)
        return spools_of(*args)

    monkeypatch.setattr(compression_routes, "spools_of", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(send_json, ann)
        assert begun.wait(20)
        try:
            second = send_json(ann)
            other = send_json(ann, OTHER)
        finally:
            go_on.set()
        assert first.result(20).status_code == 202
    assert_problem(second, 409, "idempotency_key_in_use")
    assert int(second.headers["Retry-After"]) >= 1
    assert_problem(other, 422, "idempotency_key_reused")
    assert send_json(ann).json == first.result().json


def test_of_many_at_the_same_moment_one_makes_it(service: Service, ann: Caller) -> None:
    many = 8
    barrier = threading.Barrier(many)

    def send(_: int) -> TestResponse:
        barrier.wait(20)
        return send_json(ann)

    with ThreadPoolExecutor(many) as pool:
        answers = [*pool.map(send, range(many))]
    made = {answer.json["job_id"] for answer in answers if answer.status_code == 202}
    assert len(made) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len(ann.get("/api/jobs").json["jobs"]) == 1
    assert service.kept()["uploads"] == 0


def test_a_crash_between_commit_and_answer_is_made_good_by_asking_again(
    service: Service, ann: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the power went out")

    with monkeypatch.context() as patch:
        patch.setattr("backend.storage.spool.Spool.close", crash)
        assert_problem(send_json(ann), 500, "internal")
    made = ann.get("/api/jobs").json["jobs"]
    assert len(made) == 1
    again = send_json(ann)
    assert (again.status_code, again.json["job_id"]) == (202, made[0]["id"])
    assert again.headers["Location"] == f"/api/jobs/{made[0]['id']}"
    assert len(ann.get("/api/jobs").json["jobs"]) == 1


def test_a_key_whose_process_died_is_taken_over_in_time(
    service: Service, ann: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # A process that dies does not tidy up.
        patch.setattr(idempotency, "_forget", lambda record: None)
        assert_problem(send_json(ann, name="../a.pdf"), 422)
    with_bad_name = {"json": body_of(PDF, "../a.pdf"), "headers": KEY}
    assert_problem(ann.post(BULK, **with_bad_name), 409, "idempotency_key_in_use")
    grow_old(service, idempotency.ABANDONED_AFTER)
    assert_problem(ann.post(BULK, **with_bad_name), 422, "invalid_input")
    assert send_json(ann).status_code == 202


def test_of_many_that_take_a_key_over_one_does(
    service: Service, ann: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "_forget", lambda record: None)
        patch.setattr(compression_routes, "spools_of", lambda _: 1 / 0)
        assert_problem(send_json(ann), 500)
    grow_old(service, idempotency.ABANDONED_AFTER)
    with ThreadPoolExecutor(8) as pool:
        answers = [*pool.map(lambda _: send_json(ann), range(8))]
    assert len({answer.json["job_id"] for answer in answers if answer.status_code == 202}) == 1
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len(ann.get("/api/jobs").json["jobs"]) == 1


def test_a_key_is_kept_for_a_day(service: Service, ann: Caller) -> None:
    first = send_json(ann).json["job_id"]
    grow_old(service, idempotency.KEPT_FOR / 2)
    forget(service)
    assert send_json(ann).json["job_id"] == first
    grow_old(service, idempotency.KEPT_FOR)
    forget(service)
    assert send_json(ann).json["job_id"] != first


def grow_old(service: Service, age: Any) -> None:
    with service.app.app_context(), transaction() as session:
        for record in session.query(IdempotencyKey):
            record.created_at -= age


def forget(service: Service) -> None:
    with service.app.app_context(), transaction() as session:
        forget_old(session)


# ---------------------------------------------------------------- the other POSTs


def test_a_cancel_and_a_retry_are_replayed_too(ann: Caller) -> None:
    job = f"/api/jobs/{ann.compress(PDF).json['job_id']}"
    cancelled = ann.post(f"{job}/cancel", headers=KEY)
    assert cancelled.json["status"] == "cancelled"
    retried = ann.post(f"{job}/retry", headers=KEY)
    assert (retried.status_code, retried.json["status"]) == (202, "processing")
    assert retried.headers["Location"] == job
    assert int(retried.headers["Retry-After"]) >= 1
    again = ann.post(f"{job}/cancel", headers=KEY)
    assert again.json == cancelled.json
    assert ann.get(job).json["status"] == "processing"
    assert ann.post(f"{job}/retry", headers=KEY).headers["Location"] == job


def test_a_bulk_action_is_replayed(ann: Caller) -> None:
    job_id = ann.compress(PDF).json["job_id"]
    body = {"action": "cancel", "ids": [job_id]}
    first = ann.post("/api/jobs/bulk", json=body, headers=KEY)
    ann.post(f"/api/jobs/{job_id}/retry")
    again = ann.post("/api/jobs/bulk", json=body, headers=KEY)
    assert again.json == first.json == {"success": True, "matched": 1, "done": 1, "problems": []}
    assert ann.get(f"/api/jobs/{job_id}").json["status"] == "processing"
