"""/api/jobs: see, wait for, cancel, retry and remove one's jobs."""

import time
from typing import Any
from uuid import UUID

from flask import Response, jsonify
from werkzeug.http import quote_etag

from backend.accounts.guards import current_log_in, current_user, signed_in
from backend.db import db, transaction
from backend.http.api import Blueprint
from backend.http.headers import (
    ACCEPTED,
    PART,
    TAGGED,
    byte_range,
    if_none_match,
    if_range,
    last_event_id,
)
from backend.http.idempotency import idempotent, remember
from backend.http.pagination import PageQuery
from backend.jobs import actions, acts, artifacts, batches, ledger, queries, streams
from backend.jobs.models import Job
from backend.jobs.orders import Action, Order
from backend.jobs.schemas import (
    FILTERS,
    STATES_BY_CLIENT_NAME,
    AttemptListSchema,
    BulkAction,
    BulkActionResult,
    CancelRequest,
    JobEnvelope,
    JobListQuery,
    JobListSchema,
    LogSchema,
    ResultSchema,
    StatusSchema,
    WaitQuery,
    envelope,
    links_of,
    syncboard_status,
)

blueprint = Blueprint("jobs", __name__, description="Jobs: progress, cancel, results")

POLL_SECONDS = 2
LARGE = 1000  # children of a batch that are not moved in one transaction any more


def detail(job: Job) -> dict[str, Any]:
    """The answer about one job, with why it waits and when it will be done."""
    return {**envelope(job), "job": queries.explained(db.session(), job)}


def accepted(session: Any, job: Job, **more: Any) -> Response:
    """The 202 of submitted work; kept for the Idempotency-Key in the caller's transaction."""
    links = links_of(job)
    body = {
        "success": True,
        "job_id": str(job.id),
        "status": envelope(job)["status"],
        **more,
        "links": links,
    }
    headers = poll(links)
    remember(session, body, 202, headers)
    response = jsonify(body)
    response.status_code = 202
    response.headers.update(headers)
    return response


def poll(links: dict[str, str]) -> dict[str, str]:
    """The headers of a 202: where to look, and when."""
    return {"Location": links["self"], "Retry-After": str(POLL_SECONDS)}


def wanted(query: dict[str, Any]) -> queries.Filter:
    """The filter that a query asks for; states may have the contract's names or the ledger's."""
    state = query.get("state")
    return queries.Filter(
        state=STATES_BY_CLIENT_NAME.get(state, [state]) if state else None,
        **{key: query[key] for key in FILTERS if key in query},
    )


def caller() -> acts.Actor:
    """The caller, as the record of acts names them."""
    user = current_user()
    return acts.Actor(by=user.email, via="http", user_id=user.id)


def in_slices(action: Action, job: Job, *, seconds: float = acts.REQUEST_SECONDS) -> bool:
    """Do something to a large batch of the caller's in slices; False for any other job.

    What is not done in so many seconds is the steward's.
    """
    if (job.items_total or 0) <= LARGE or job.parent_id is not None:
        return False
    wanted = queries.Filter(ids=[job.id]).of_owner(current_user().id)
    order = Order(action=action, wanted=wanted)
    return acts.carry_out(caller(), order, seconds=seconds).matched > 0


def mine(job_id: UUID) -> Job:
    """The caller's job."""
    return queries.owned(db.session(), current_user().id, job_id)


@blueprint.route("/api/jobs")
@signed_in
@blueprint.arguments(JobListQuery, location="query")
@blueprint.response(200, JobListSchema)
def index(query: dict[str, Any]) -> dict[str, Any]:
    """List one's jobs, the newest first. A page may be short and have a next one all the same."""
    page = queries.jobs_page(
        db.session(), current_user().id, wanted(query), query.get("cursor"), query["limit"]
    )
    return {"success": True, "jobs": page.items, "next_cursor": page.next_cursor}


@blueprint.route("/api/jobs/<uuid:job_id>")
@signed_in
@if_none_match
@blueprint.arguments(WaitQuery, location="query")
@blueprint.response(200, JobEnvelope, headers=TAGGED)
@blueprint.alt_response(304, description="Not changed since the ETag in If-None-Match")
def show(query: dict[str, Any], job_id: UUID) -> Any:
    """See one job; with `wait`, hold the answer until it changes."""
    job = mine(job_id)
    if query["wait"]:
        job = streams.wait_for_change(current_user().id, job, query["wait"])
    tag = streams.tag_of(job)
    etag = {"ETag": quote_etag(tag, weak=True)}
    if streams.is_seen(tag):
        return Response(status=304, headers=etag)
    return detail(job), 200, etag


@blueprint.route("/jobs/<uuid:job_id>/status")
@signed_in
@blueprint.response(200, StatusSchema)
def status(job_id: UUID) -> dict[str, Any]:
    """See one job, in the words of SyncBoard's clients."""
    return syncboard_status(mine(job_id))


@blueprint.route("/api/jobs/<uuid:job_id>/cancel", methods=["POST"])
@signed_in
@idempotent
@blueprint.arguments(CancelRequest, required=False)
@blueprint.response(200, JobEnvelope)
def cancel(body: dict[str, Any], job_id: UUID) -> dict[str, Any]:
    """Ask a job to stop, or with `terminate` kill it. What it has finished is kept.

    The children of a large batch stop within moments, a part at a time.
    """
    with transaction() as session:
        owner_id = current_user().id
        job = queries.owned(session, owner_id, job_id)
        batches.cancel(session, job, by=owner_id, force=body["terminate"])
    actions.tell_parent(job.parent_id)
    actions.stop_children(acts.REQUEST_SECONDS)
    return detail(mine(job_id))


@blueprint.route("/api/jobs/<uuid:job_id>/retry", methods=["POST"])
@signed_in
@idempotent
@blueprint.response(202, JobEnvelope, headers=ACCEPTED)
def retry(job_id: UUID) -> Any:
    """Try a failed or cancelled job again; of a batch only what failed."""
    if not in_slices(Action.RETRY, mine(job_id)):
        with transaction() as session:
            actions.retry(session, queries.owned(session, current_user().id, job_id))
    job = mine(job_id)
    return detail(job), 202, poll(links_of(job))


@blueprint.route("/api/jobs/<uuid:job_id>", methods=["DELETE"])
@signed_in
@blueprint.response(204)
def delete(job_id: UUID) -> None:
    """Remove an ended job, with its children, log and artifacts."""
    if not in_slices(Action.DISCARD, mine(job_id)):
        with transaction() as session:
            ledger.remove(session, queries.owned(session, current_user().id, job_id))


@blueprint.route("/api/jobs/bulk", methods=["POST"])
@signed_in
@idempotent
@blueprint.arguments(BulkAction)
@blueprint.response(200, BulkActionResult)
def bulk(body: dict[str, Any]) -> dict[str, Any]:
    """Cancel, retry or delete many jobs: those with the ids, or all that a filter matches.

    With a filter, `matched` are those of which the action changes anything. Where they are more
    than `done`, the rest is being done: it goes on after the answer.
    """
    owner_id, action, force = current_user().id, body["action"], body["terminate"]
    of_slices = Action.DISCARD if action == "delete" else Action(action)
    if "ids" in body:
        until = time.monotonic() + acts.REQUEST_SECONDS

        def elsewhere(job: Job) -> bool:
            left = max(0.0, until - time.monotonic())
            return action != "cancel" and in_slices(of_slices, job, seconds=left)

        answer = actions.act_on_each(
            owner_id, action, body["ids"], force=force, elsewhere=elsewhere
        )
        actions.stop_children(max(0.0, until - time.monotonic()))
        return answer
    order = Order(
        action=of_slices,
        wanted=wanted(body["filter"]).of_owner(owner_id),
        force=force and action == "cancel",
    )
    act = acts.carry_out(caller(), order)
    return {"success": True, "matched": act.matched, "done": act.done, "problems": []}


@blueprint.route("/api/jobs/<uuid:job_id>/attempts")
@signed_in
@blueprint.response(200, AttemptListSchema)
def attempts(job_id: UUID) -> dict[str, Any]:
    """See a job's runs, and what ended each."""
    return {"success": True, "attempts": queries.attempts(db.session(), mine(job_id))}


@blueprint.route("/api/jobs/<uuid:job_id>/children")
@signed_in
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, JobListSchema)
def children(query: dict[str, Any], job_id: UUID) -> dict[str, Any]:
    """List a batch's jobs, in the order of its items."""
    page = queries.children_page(db.session(), mine(job_id), query.get("cursor"), query["limit"])
    return {"success": True, "jobs": page.items, "next_cursor": page.next_cursor}


@blueprint.route("/api/jobs/<uuid:job_id>/log")
@signed_in
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, LogSchema)
def log(query: dict[str, Any], job_id: UUID) -> dict[str, Any]:
    """Read what a job logged, the oldest line first."""
    page = queries.log_page(db.session(), mine(job_id), query.get("cursor"), query["limit"])
    return {"success": True, "lines": page.items, "next_cursor": page.next_cursor}


@blueprint.route("/api/jobs/<uuid:job_id>/events")
@signed_in
@last_event_id
@blueprint.response(200, content_type="text/event-stream", schema={"type": "string"})
@blueprint.alt_response(204, description="The job has ended, and all of it was told")
def events(job_id: UUID) -> Response:
    """Follow a job as Server-Sent Events; resumed by Last-Event-ID."""
    return streams.job_stream(current_user().id, mine(job_id), current_log_in())


@blueprint.route("/api/jobs/events")
@signed_in
@last_event_id
@blueprint.response(200, content_type="text/event-stream", schema={"type": "string"})
def all_events() -> Response:
    """Follow all of one's jobs as Server-Sent Events; resumed by Last-Event-ID."""
    return streams.owner_stream(current_user().id, current_log_in())


@blueprint.route("/api/jobs/<uuid:job_id>/result")
@signed_in
@byte_range
@if_range
@if_none_match
@blueprint.response(200, ResultSchema)
@blueprint.alt_response(200, content_type="*/*", schema={}, description="The file")
@blueprint.alt_response(206, description="The range asked for", headers=PART)
@blueprint.alt_response(304, description="Not changed since the ETag in If-None-Match")
def result(job_id: UUID) -> Response:
    """Download what a job made: its file, or its result as JSON where it made none."""
    return artifacts.download(mine(job_id))
