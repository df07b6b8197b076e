"""How jobs look to callers, and what callers may say of them."""

from typing import Any

from flask import url_for
from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from backend.http.fields import BoundedList
from backend.http.pagination import PageQuery
from backend.jobs.kinds import Queue
from backend.jobs.models import Job
from backend.jobs.states import CLIENT_STATE, CLIENT_STATUS, JobState, as_shown

STATES_BY_CLIENT_NAME = {
    name: [state for state in JobState if CLIENT_STATE[state] == name]
    for name in dict.fromkeys(CLIENT_STATE.values())
}
STATE_NAMES = [*STATES_BY_CLIENT_NAME, *JobState]
FILTERS = ("kind", "queue", "q", "since", "before", "parent_id")  # as a `queries.Filter` has them
MOST_IDS = 1000
LONGEST_WAIT = 30

IDLE_MESSAGE = {
    JobState.QUEUED: "Waiting in the queue…",
    JobState.RUNNING: "Starting…",
    JobState.RETRYING: "Will be tried again…",
    JobState.CANCELLING: "Cancelling…",
    JobState.SUCCEEDED: "Done",
    JobState.FAILED: "Failed",
    JobState.CANCELLED: "Cancelled",
}


def whole_percent(job: Job) -> int:
    """Percent as the contract has it: whole, and 100 only for what has succeeded."""
    return int(job.percent)


def state_of(job: Job) -> JobState:
    """A job's state as callers see it."""
    return as_shown(job.state, begun=job.items_total is not None or bool(job.attempt))


def message_of(job: Job) -> str:
    """The sentence that says what the job is doing."""
    if job.state in {JobState.FAILED, JobState.RETRYING} and job.error:
        return job.error
    if job.state in {JobState.SUCCEEDED, JobState.CANCELLED, JobState.CANCELLING}:
        return IDLE_MESSAGE[JobState(job.state)]
    if job.state == JobState.WAITING:
        return f"Processed {job.items_done or 0} of {job.items_total or 0}…"
    return job.message or IDLE_MESSAGE[JobState(job.state)]


class WaitingSchema(Schema):
    """Why a job does not run yet."""

    reason = fields.String(required=True)
    message = fields.String(required=True)
    position = fields.Integer(allow_none=True)
    due_at = fields.DateTime(allow_none=True)


class EtaSchema(Schema):
    """Seconds from now until a job is done, likely earliest and latest."""

    low = fields.Float(required=True)
    high = fields.Float(required=True)


class JobSchema(Schema):
    """A job. `task_id` equals `id`; `state` has the names that Celery made familiar."""

    id = fields.UUID(required=True)
    task_id = fields.UUID(required=True)
    kind = fields.String(required=True)
    label = fields.String(required=True)
    queue = fields.String(required=True)
    state = fields.Function(
        lambda job: CLIENT_STATE[state_of(job)],
        required=True,
        metadata={"type": "string", "enum": list(STATES_BY_CLIENT_NAME)},
    )
    percent = fields.Function(
        whole_percent, required=True, metadata={"type": "integer", "minimum": 0, "maximum": 100}
    )
    status = fields.Function(message_of, required=True, metadata={"type": "string"})
    stage = fields.String(required=True)
    error = fields.String(required=True, allow_none=True)
    error_code = fields.String(required=True, allow_none=True)
    items_done = fields.Integer(allow_none=True)
    items_total = fields.Integer(allow_none=True)
    attempt = fields.Integer(required=True)
    max_attempts = fields.Integer(required=True)
    parent_id = fields.UUID(allow_none=True)
    created_at = fields.DateTime(required=True)
    run_at = fields.DateTime(required=True)
    started_at = fields.DateTime(allow_none=True)
    ended_at = fields.DateTime(allow_none=True)
    expires_at = fields.DateTime(allow_none=True)
    cancel_requested_at = fields.DateTime(allow_none=True)
    version = fields.Integer(required=True)


class LinksSchema(Schema):
    """Where to go from here."""

    self = fields.String(required=True)
    events = fields.String(required=True)
    cancel = fields.String(required=True)
    result = fields.String(required=True)


class JobDetailSchema(JobSchema):
    """A job, with why it waits and when it will be done."""

    waiting = fields.Nested(WaitingSchema, allow_none=True)
    eta_seconds = fields.Nested(EtaSchema, allow_none=True)


class JobEnvelope(Schema):
    """The answer about one job."""

    success = fields.Boolean(required=True)
    job_id = fields.UUID(required=True)
    status = fields.String(
        required=True, validate=validate.OneOf(sorted(set(CLIENT_STATUS.values())))
    )
    error_message = fields.String(required=True, allow_none=True)
    job = fields.Nested(JobDetailSchema, required=True)
    result = fields.Dict(keys=fields.String(), required=True, allow_none=True)
    links = fields.Nested(LinksSchema, required=True)


class AcceptedSchema(Schema):
    """The answer to accepted work."""

    success = fields.Boolean(required=True)
    job_id = fields.UUID(required=True)
    status = fields.String(required=True)
    links = fields.Nested(LinksSchema, required=True)


class JobListSchema(Schema):
    """A page of jobs."""

    success = fields.Boolean(required=True)
    jobs = fields.List(fields.Nested(JobSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class ResultSchema(Schema):
    """The result of a job that made no file."""

    success = fields.Boolean(required=True)
    job_id = fields.UUID(required=True)
    result = fields.Dict(keys=fields.String(), required=True, allow_none=True)


class AttemptSchema(Schema):
    """One run of a job."""

    number = fields.Integer(required=True)
    worker = fields.String(required=True)
    started_at = fields.DateTime(required=True)
    ended_at = fields.DateTime(required=True, allow_none=True)
    outcome = fields.String(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)


class AttemptListSchema(Schema):
    """A job's runs."""

    success = fields.Boolean(required=True)
    attempts = fields.List(fields.Nested(AttemptSchema), required=True)


class LogLineSchema(Schema):
    """A line of a job's log."""

    at = fields.DateTime(required=True)
    attempt = fields.Integer(required=True)
    level = fields.String(required=True)
    message = fields.String(required=True)


class LogSchema(Schema):
    """A page of a job's log."""

    success = fields.Boolean(required=True)
    lines = fields.List(fields.Nested(LogLineSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class CancelRequest(Schema):
    """`terminate` kills the job at once instead of asking it to stop."""

    terminate = fields.Boolean(load_default=False, truthy={True}, falsy={False})


class WaitQuery(Schema):
    """`wait`: for how many seconds to hold the answer until the job changes."""

    wait = fields.Float(load_default=0, validate=validate.Range(0, LONGEST_WAIT))


class JobFilter(Schema):
    """Which jobs. `q` is part of a label, a file's name for example."""

    state = fields.String(validate=validate.OneOf(STATE_NAMES))
    kind = fields.String(validate=validate.Length(1, 100))
    queue = fields.String(validate=validate.OneOf(list(Queue)))
    q = fields.String(validate=validate.Length(1, 200))
    since = fields.AwareDateTime()


class JobListQuery(PageQuery, JobFilter):
    """Which jobs, and which page of them."""


class BulkAction(Schema):
    """An action on many jobs: those with the ids, or all that the filter matches."""

    action = fields.String(required=True, validate=validate.OneOf(["cancel", "retry", "delete"]))
    ids = BoundedList(fields.UUID(), most=MOST_IDS, validate=validate.Length(1))
    filter = fields.Nested(JobFilter)
    terminate = fields.Boolean(load_default=False, truthy={True}, falsy={False})

    @validates_schema
    def _one_of_both(self, data: dict[str, Any], **_: object) -> None:
        if ("ids" in data) == ("filter" in data):
            raise ValidationError("Give either ids or a filter.", "ids")


class BulkProblemSchema(Schema):
    """A job on which a bulk action was not possible, and why."""

    job_id = fields.UUID(required=True)
    error = fields.String(required=True)


class BulkActionResult(Schema):
    """What a bulk action did."""

    success = fields.Boolean(required=True)
    matched = fields.Integer(required=True)
    done = fields.Integer(required=True)
    problems = fields.List(fields.Nested(BulkProblemSchema), required=True)


class StatusMetaSchema(Schema):
    """How far a job is, for SyncBoard's clients."""

    stage = fields.String(required=True)
    message = fields.String(required=True)
    percent = fields.Integer(required=True)
    error = fields.String()


class StatusSchema(Schema):
    """A job, for SyncBoard's clients."""

    job_id = fields.UUID(required=True)
    state = fields.String(required=True)
    meta = fields.Nested(StatusMetaSchema, required=True)
    result = fields.Dict(keys=fields.String(), required=True, allow_none=True)


def links_of(job: Job) -> dict[str, str]:
    """Where to go from a job."""
    return {
        "self": url_for("jobs.show", job_id=job.id),
        "events": url_for("jobs.events", job_id=job.id),
        "cancel": url_for("jobs.cancel", job_id=job.id),
        "result": url_for("jobs.result", job_id=job.id),
    }


def envelope(job: Job) -> dict[str, Any]:
    """What every answer about one job has at its top."""
    return {
        "success": True,
        "job_id": job.id,
        "status": CLIENT_STATUS[state_of(job)],
        "error_message": job.error if job.state == JobState.FAILED else None,
        "result": job.result,
        "links": links_of(job),
    }


SYNCBOARD_STATE = {"PROGRESS": "PROCESSING", "CANCELLING": "PROCESSING", "RETRY": "PROCESSING"}


def syncboard_status(job: Job) -> dict[str, Any]:
    """A job in the words of SyncBoard's clients."""
    state = CLIENT_STATE[state_of(job)]
    meta = {"stage": job.stage, "message": message_of(job), "percent": whole_percent(job)}
    if job.error and job.state == JobState.FAILED:
        meta["error"] = job.error
    return {
        "job_id": job.id,
        "state": SYNCBOARD_STATE.get(state, state),
        "meta": meta,
        "result": job.result if job.state == JobState.SUCCEEDED else None,
    }
