"""Operators' levers over HTTP: for administrators alone, refused by name, and kept."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from werkzeug.routing import Rule

from backend.db import transaction
from backend.jobs import Queue, attempts, claims, workers
from backend.jobs.models import Job
from tests.contract.http.service import Caller, Service, assert_problem, small_pdf

PDF = small_pdf()
KIND = "compression.compress_file"
NODE = "default@here"
SLOT = claims.Slot(f"{NODE}/1", (Queue.DEFAULT,), 60)


@pytest.fixture
def batch(ann: Caller) -> UUID:
    """A batch of three files that waits."""
    return UUID(ann.compress(PDF, PDF, PDF).json["job_id"])


@pytest.fixture
def a_worker(service: Service) -> None:
    with service.app.app_context():
        workers.report(NODE, [Queue.DEFAULT], 2)


def claim(service: Service) -> bool:
    """Whether the worker's slot gets a job."""
    with service.app.app_context(), transaction() as session:
        return claims.claim(session, SLOT) != []


def order(root: Caller, action: str, **more: Any) -> dict[str, Any]:
    answer = root.post("/api/admin/jobs/bulk", json={"action": action, **more})
    assert answer.status_code == 200, answer.text
    return dict(answer.json)


def named(items: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(one for one in items if one["name"] == name)


def reason(caller: Caller, job_id: UUID) -> str:
    return str(caller.get(f"/api/jobs/{job_id}").json["job"]["waiting"]["reason"])


# ---------------------------------------------------------------- who


def test_only_administrators_may_use_them(service: Service, ann: Caller) -> None:
    rules = service.app.url_map.iter_rules()
    rules = [rule for rule in rules if rule.rule.startswith("/api/admin/")]
    assert len(rules) >= 14
    with service.leaving_nothing_behind():
        for rule in rules:
            for method in (rule.methods or set()) & {"GET", "POST"}:
                path = address(rule)
                assert_problem(ann.open(method, path), 403, "admin_only")
                answer = service.app.test_client().open(path, method=method)
                assert_problem(answer, 401)


def address(rule: Rule) -> str:
    built = rule.build({"job_id": uuid4(), "act_id": uuid4(), "name": "default"})
    assert built is not None
    return built[1]


# ---------------------------------------------------------------- pause and drain


@pytest.mark.parametrize(
    ("things", "name", "stop", "go"),
    [
        ("queues", "default", "pause", "resume"),
        ("kinds", KIND, "pause", "resume"),
        ("workers", NODE, "drain", "undrain"),
    ],
)
def test_what_is_paused_is_not_claimed_until_it_is_resumed(
    service: Service,
    root: Caller,
    batch: UUID,
    a_worker: None,
    things: str,
    name: str,
    stop: str,
    go: str,
) -> None:
    path = f"/api/admin/{things}/{name}"
    answer = root.post(f"{path}/{stop}", json={"reason": "moving house"})
    assert (answer.status_code, answer.json["act"]["done"]) == (200, 1)
    shown = named(root.get(f"/api/admin/{things}").json[things], name)["pause"]
    assert (shown["paused_by"], shown["reason"]) == ("root@example.com", "moving house")
    assert not claim(service)
    again = root.post(f"{path}/{stop}")
    assert again.json["act"]["done"] == 0

    assert root.post(f"{path}/{go}").json["act"]["done"] == 1
    assert named(root.get(f"/api/admin/{things}").json[things], name)["pause"] is None
    assert claim(service)


def test_a_drained_worker_is_free_once_the_last_of_its_slots_is(
    service: Service, root: Caller, batch: UUID, a_worker: None
) -> None:
    def shown() -> dict[str, Any]:
        return named(root.get("/api/admin/workers").json["workers"], NODE)

    with service.app.app_context(), transaction() as session:
        (held,) = claims.claim(session, SLOT)
    assert held is not None
    root.post(f"/api/admin/workers/{NODE}/drain")
    worker = shown()
    assert (worker["busy"], worker["is_free"]) == (1, False)
    assert [row["job_id"] for row in worker["running"]] == [str(held.job_id)]
    with service.app.app_context(), transaction() as session:
        attempts.finish(session, held, {})
    assert (shown()["busy"], shown()["is_free"]) == (0, True)


@pytest.mark.parametrize(
    ("path", "code", "listed"),
    [
        ("queues/none/pause", "queue_not_found", "high_priority"),
        ("queues/none/resume", "queue_not_found", "low_priority"),
        ("kinds/none/pause", "kind_not_found", KIND),
        ("workers/none/drain", "worker_not_found", NODE),
        ("workers/none/undrain", "worker_not_found", NODE),
    ],
)
def test_a_wrong_name_is_refused_with_the_names_that_there_are(
    root: Caller, a_worker: None, path: str, code: str, listed: str
) -> None:
    said = assert_problem(root.post(f"/api/admin/{path}"), 404, code)
    assert listed in said["error"]
    assert root.get("/api/admin/acts").json["acts"] == []


# ---------------------------------------------------------------- why a job waits


def test_a_waiting_job_says_what_keeps_it(
    service: Service, root: Caller, ann: Caller, batch: UUID
) -> None:
    child = UUID(ann.get(f"/api/jobs/{batch}/children").json["jobs"][0]["id"])

    assert reason(ann, child) == "no_worker"
    with service.app.app_context():
        workers.report(NODE, [Queue.DEFAULT], 2)
    assert reason(ann, child) == "queued"
    root.post(f"/api/admin/workers/{NODE}/drain")
    assert reason(ann, child) == "drained"
    root.post(f"/api/admin/kinds/{KIND}/pause")
    assert reason(ann, child) == "paused"
    shown = root.get(f"/api/admin/jobs/{child}").json["job"]
    assert KIND in shown["waiting"]["message"]
    assert (shown["ledger_state"], shown["priority"]) == ("queued", 5)


# ---------------------------------------------------------------- many jobs


def test_everybodys_jobs_are_listed_by_filter_a_page_at_a_time(
    root: Caller, ann: Caller, bob: Caller, batch: UUID
) -> None:
    bob.compress(PDF)
    seen: list[str] = []
    cursor = ""
    while True:
        page = root.get(f"/api/admin/jobs?kind={KIND}&owner=ann@example.com&limit=2{cursor}").json
        seen += [job["id"] for job in page["jobs"]]
        assert {job["owner"] for job in page["jobs"]} == {"ann@example.com"}
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    children = ann.get(f"/api/jobs/{batch}/children").json["jobs"]
    assert seen == [job["id"] for job in reversed(children)]


def test_a_dry_run_tells_how_many_and_touches_none(root: Caller, ann: Caller, batch: UUID) -> None:
    said = order(root, "cancel", filter={"parent_id": str(batch)}, dry_run=True)
    assert (said["matched"], said["done"], said["act"]) == (3, 0, None)
    assert ann.get(f"/api/jobs/{batch}").json["job"]["state"] == "PROGRESS"
    assert root.get("/api/admin/acts").json["acts"] == []


def test_all_of_an_owners_jobs_are_cancelled_tried_again_and_discarded(
    root: Caller, ann: Caller, bob: Caller, batch: UUID
) -> None:
    kept = bob.compress(PDF).json["job_id"]
    mine = {"owner": "ann@example.com"}
    said = order(root, "cancel", filter=mine)
    assert (said["matched"], said["done"]) == (4, 4)
    assert ann.get(f"/api/jobs/{batch}").json["status"] == "cancelled"
    assert order(root, "retry", filter=mine | {"kind": "compression.compress_bulk"})["done"] == 1
    assert ann.get(f"/api/jobs/{batch}").json["status"] == "processing"
    order(root, "cancel", ids=[str(batch)])
    order(root, "discard", filter=mine)
    assert_problem(ann.get(f"/api/jobs/{batch}"), 404)
    assert bob.get(f"/api/jobs/{kept}").json["job"]["state"] == "PROGRESS"


def test_a_filter_that_matches_nothing_says_so(root: Caller) -> None:
    said = order(root, "retry", filter={"state": "FAILURE"})
    assert (said["matched"], said["done"]) == (0, 0)
    assert said["message"] == "No job matches that could be changed by retry."


def test_a_queued_jobs_priority_is_changed(root: Caller, ann: Caller, batch: UUID) -> None:
    said = order(root, "priority", filter={"parent_id": str(batch)}, priority=9)
    assert (said["matched"], said["done"]) == (3, 3)
    shown = root.get(f"/api/admin/jobs?parent_id={batch}").json["jobs"]
    assert {job["priority"] for job in shown} == {9}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "explode", "filter": {}}, "action"),
        ({"action": "cancel"}, "ids"),
        ({"action": "cancel", "ids": [str(uuid4())], "filter": {}}, "ids"),
        ({"action": "priority", "filter": {}}, "priority"),
        ({"action": "priority", "filter": {}, "priority": 11}, "priority"),
        ({"action": "cancel", "filter": {}, "priority": 3}, "priority"),
        ({"action": "cancel", "filter": {"queue": "none"}}, "filter"),
        ({"action": "cancel", "filter": {"since": "yesterday"}}, "filter"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    root: Caller, body: dict[str, Any], field: str
) -> None:
    said = assert_problem(root.post("/api/admin/jobs/bulk", json=body), 422, "invalid_input")
    assert field in said["fields"]


@pytest.mark.parametrize(
    ("which", "code"),
    [({"kind": "none"}, "kind_not_found"), ({"owner": "no@body.org"}, "owner_not_found")],
)
def test_a_filter_on_what_there_is_not_is_refused(
    root: Caller, which: dict[str, str], code: str
) -> None:
    body = {"action": "cancel", "filter": which}
    assert_problem(root.post("/api/admin/jobs/bulk", json=body), 404, code)


# ---------------------------------------------------------------- the record


def test_every_act_is_kept_with_who_did_it_and_to_how_many(
    service: Service, root: Caller, ann: Caller, batch: UUID
) -> None:
    root.post("/api/admin/queues/default/pause", json={"reason": "moving"})
    order(root, "cancel", filter={"parent_id": str(batch)}, terminate=True)
    ann.post("/api/jobs/bulk", json={"action": "delete", "filter": {"state": "REVOKED"}})
    listed = root.get("/api/admin/acts").json["acts"]
    told = [(act["by"], act["action"], act["target"], act["matched"]) for act in listed]

    assert told == [
        ("ann@example.com", "discard", "", 0),
        ("root@example.com", "cancel", "", 3),
        ("root@example.com", "pause_queue", "default", 1),
    ]
    assert listed[1]["filter"] == {"parent_id": str(batch)}
    assert listed[1]["options"] == {"terminate": True}
    assert listed[2]["options"] == {"reason": "moving"}
    assert all(act["finished_at"] and act["via"] == "http" for act in listed)
    one = root.get(f"/api/admin/acts/{listed[1]['id']}").json
    assert one["act"]["user_id"] == root.id
    assert_problem(root.get(f"/api/admin/acts/{uuid4()}"), 404)


def test_an_order_that_is_sent_twice_with_a_key_is_carried_out_once(
    root: Caller, batch: UUID
) -> None:
    body = {"action": "priority", "filter": {"parent_id": str(batch)}, "priority": 2}
    first, second = (
        root.post("/api/admin/jobs/bulk", json=body, headers={"Idempotency-Key": "k"})
        for _ in range(2)
    )
    assert first.json == second.json
    assert len(root.get("/api/admin/acts").json["acts"]) == 1


# ---------------------------------------------------------------- large batches of an owner


def test_a_large_batch_is_cancelled_tried_again_and_deleted_by_its_owner(
    service: Service, ann: Caller, batch: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.jobs.routes.LARGE", 2)
    monkeypatch.setattr("backend.jobs.batches.ROWS_AT_ONCE", 1)
    assert ann.post(f"/api/jobs/{batch}/cancel").json["status"] == "cancelled"
    assert ann.post(f"/api/jobs/{batch}/retry").json["status"] == "processing"
    assert_problem(ann.post(f"/api/jobs/{batch}/retry"), 409, "not_retryable")
    assert_problem(ann.delete(f"/api/jobs/{batch}"), 409, "job_active")
    ann.post(f"/api/jobs/{batch}/cancel")
    assert ann.delete(f"/api/jobs/{batch}").status_code == 204
    with service.app.app_context(), transaction() as session:
        assert session.query(Job).count() == 0


def test_large_batches_among_many_jobs_are_tried_again_and_deleted(
    service: Service, ann: Caller, batch: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.jobs.routes.LARGE", 2)

    def act(action: str) -> dict[str, Any]:
        body = {"action": action, "ids": [str(batch)]}
        answer: dict[str, Any] = ann.post("/api/jobs/bulk", json=body).json
        return answer

    assert act("cancel")["done"] == 1
    assert act("retry") == {"success": True, "matched": 1, "done": 1, "problems": []}
    assert ann.get(f"/api/jobs/{batch}").json["status"] == "processing"
    (problem,) = act("delete")["problems"]
    assert "cancel it first" in problem["error"]
    act("cancel")
    assert act("delete")["done"] == 1
    with service.app.app_context(), transaction() as session:
        assert session.query(Job).count() == 0
