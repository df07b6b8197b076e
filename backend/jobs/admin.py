"""/api/admin: see all jobs, queues, kinds and workers, and act on them. For administrators."""

from typing import Any
from uuid import UUID

from backend.accounts.guards import admin_only, current_user
from backend.db import db
from backend.errors import NotFound
from backend.http.api import Blueprint
from backend.http.idempotency import idempotent
from backend.http.pagination import PageQuery
from backend.jobs import acts, orders, overview, pauses, queries
from backend.jobs.acts import Actor
from backend.jobs.admin_schemas import (
    ActListSchema,
    ActResult,
    AdminJobEnvelope,
    AdminJobListQuery,
    AdminJobListSchema,
    JobsOrder,
    KindListSchema,
    OrderResult,
    PauseRequest,
    QueueListSchema,
    WorkerListSchema,
)
from backend.jobs.models import Act, Job, PauseScope
from backend.jobs.orders import Action, Order
from backend.jobs.schemas import FILTERS, STATES_BY_CLIENT_NAME

blueprint = Blueprint(
    "admin", __name__, url_prefix="/api/admin", description="Operators: see and act on everything"
)


def caller() -> Actor:
    """The administrator who asks, as the record of acts names them."""
    user = current_user()
    return Actor(by=user.email, via="http", user_id=user.id)


def everybodys(query: dict[str, Any]) -> queries.Filter:
    """The filter that an operator asks for; NotFound for a kind or an owner that there is not."""
    state, owner = query.get("state"), query.get("owner")
    if "kind" in query:
        pauses.check_name(db.session(), PauseScope.KIND, query["kind"])
    return queries.Filter(
        state=STATES_BY_CLIENT_NAME.get(state, [state]) if state else None,
        owner_id=overview.owner_id_of(db.session(), owner) if owner else None,
        **{name: query[name] for name in FILTERS if name in query},
    )


@blueprint.route("/jobs")
@admin_only
@blueprint.arguments(AdminJobListQuery, location="query")
@blueprint.response(200, AdminJobListSchema)
def jobs(query: dict[str, Any]) -> dict[str, Any]:
    """List everybody's jobs, those of batches too, the newest first."""
    page = overview.jobs_page(db.session(), everybodys(query), query.get("cursor"), query["limit"])
    for job, owner in page.items:
        job.owner = owner  # type: ignore[attr-defined] # its email, for the schema alone
    listed = [job for job, _ in page.items]
    return {"success": True, "jobs": listed, "next_cursor": page.next_cursor}


@blueprint.route("/jobs/<uuid:job_id>")
@admin_only
@blueprint.response(200, AdminJobEnvelope)
def job(job_id: UUID) -> dict[str, Any]:
    """See anybody's job, and why it waits."""
    session = db.session()
    found = session.get(Job, job_id, populate_existing=True)
    if found is None:
        raise NotFound(f"There is no job {job_id}.")
    return {"success": True, "job": queries.explained(session, found)}


@blueprint.route("/jobs/bulk", methods=["POST"])
@admin_only
@idempotent
@blueprint.arguments(JobsOrder)
@blueprint.response(200, OrderResult)
def bulk(body: dict[str, Any]) -> dict[str, Any]:
    """Cancel, retry, discard, run now or change the priority of all jobs that match.

    `matched` are those of which the action changes anything. Where they are more than `done`, the
    rest is being done: it goes on after the answer.
    """
    wanted = queries.Filter(ids=body["ids"]) if "ids" in body else everybodys(body["filter"])
    order = Order(
        action=Action(body["action"]),
        wanted=wanted,
        force=body["terminate"] and body["action"] == Action.CANCEL,
        priority=body.get("priority"),
    )
    if body["dry_run"]:
        matched, done, act = orders.count(order), 0, None
        message = orders.would(order, matched)
    else:
        act = acts.carry_out(caller(), order)
        matched, done, message = act.matched, act.done, acts.sentence(act)
    return {
        "success": True,
        "message": message,
        "dry_run": body["dry_run"],
        "matched": matched,
        "done": done,
        "act": act,
    }


@blueprint.route("/queues")
@admin_only
@blueprint.response(200, QueueListSchema)
def queues() -> dict[str, Any]:
    """List the queues: what waits, for how long, how many slots serve them."""
    return {"success": True, "queues": overview.queues()}


@blueprint.route("/queues/<name>/pause", methods=["POST"])
@admin_only
@blueprint.arguments(PauseRequest, required=False)
@blueprint.response(200, ActResult)
def pause_queue(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Claim nothing from a queue until it is resumed; what runs goes on."""
    return answer(pauses.pause(caller(), PauseScope.QUEUE, name, body["reason"]))


@blueprint.route("/queues/<name>/resume", methods=["POST"])
@admin_only
@blueprint.response(200, ActResult)
def resume_queue(name: str) -> dict[str, Any]:
    """Open a paused queue again."""
    return answer(pauses.resume(caller(), PauseScope.QUEUE, name))


@blueprint.route("/kinds")
@admin_only
@blueprint.response(200, KindListSchema)
def kinds() -> dict[str, Any]:
    """List the kinds of job, and how many of each are in which state."""
    return {"success": True, "kinds": overview.kinds_list()}


@blueprint.route("/kinds/<name>/pause", methods=["POST"])
@admin_only
@blueprint.arguments(PauseRequest, required=False)
@blueprint.response(200, ActResult)
def pause_kind(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Claim no job of a kind until it is resumed; what runs goes on."""
    return answer(pauses.pause(caller(), PauseScope.KIND, name, body["reason"]))


@blueprint.route("/kinds/<name>/resume", methods=["POST"])
@admin_only
@blueprint.response(200, ActResult)
def resume_kind(name: str) -> dict[str, Any]:
    """Claim jobs of a paused kind again."""
    return answer(pauses.resume(caller(), PauseScope.KIND, name))


@blueprint.route("/workers")
@admin_only
@blueprint.response(200, WorkerListSchema)
def workers() -> dict[str, Any]:
    """List the workers: their slots, what each runs, and whether they are drained."""
    return {"success": True, "workers": overview.workers_list()}


@blueprint.route("/workers/<name>/drain", methods=["POST"])
@admin_only
@blueprint.arguments(PauseRequest, required=False)
@blueprint.response(200, ActResult)
def drain(body: dict[str, Any], name: str) -> dict[str, Any]:
    """Have a worker claim nothing more; the list says when the last of its slots is free."""
    return answer(pauses.pause(caller(), PauseScope.WORKER, name, body["reason"]))


@blueprint.route("/workers/<name>/undrain", methods=["POST"])
@admin_only
@blueprint.response(200, ActResult)
def undrain(name: str) -> dict[str, Any]:
    """Have a drained worker claim again."""
    return answer(pauses.resume(caller(), PauseScope.WORKER, name))


@blueprint.route("/acts")
@admin_only
@blueprint.arguments(PageQuery, location="query")
@blueprint.response(200, ActListSchema)
def acts_list(query: dict[str, Any]) -> dict[str, Any]:
    """List who did what to queues, kinds, workers and many jobs, the newest first."""
    page = acts.page(db.session(), query.get("cursor"), query["limit"])
    return {"success": True, "acts": page.items, "next_cursor": page.next_cursor}


@blueprint.route("/acts/<uuid:act_id>")
@admin_only
@blueprint.response(200, ActResult)
def act(act_id: UUID) -> dict[str, Any]:
    """See how far an act is."""
    return answer(acts.find(act_id))


def answer(act: Act) -> dict[str, Any]:
    """What is said of an act."""
    return {"success": True, "message": acts.sentence(act), "act": act}
