"""What operators say and see over HTTP."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from backend.accounts.models import MAX_EMAIL_LENGTH
from backend.http.fields import BoundedList
from backend.http.pagination import PageQuery
from backend.jobs.kinds import Queue
from backend.jobs.orders import PRIORITIES, Action
from backend.jobs.schemas import MOST_IDS, JobDetailSchema, JobFilter, JobSchema
from backend.jobs.states import JobState

LONGEST_REASON = 500


class AdminJobFilter(JobFilter):
    """Which of everybody's jobs; what is not given does not matter."""

    before = fields.AwareDateTime()
    parent_id = fields.UUID(metadata={"description": "The batch whose children they are."})
    owner = fields.String(
        validate=validate.Length(1, MAX_EMAIL_LENGTH),
        metadata={"description": "The owner's email address."},
    )


class AdminJobListQuery(PageQuery, AdminJobFilter):
    """Which jobs, and which page of them."""


class AdminJobSchema(JobSchema):
    """A job, as operators see it."""

    owner_id = fields.Integer(required=True, allow_none=True)
    priority = fields.Integer(required=True)
    worker = fields.String(required=True, allow_none=True)
    request_id = fields.String(required=True)
    ledger_state = fields.String(
        attribute="state", required=True, validate=validate.OneOf([*JobState])
    )


class OwnedJobSchema(AdminJobSchema):
    """A job in a list, with its owner's address."""

    owner = fields.String(required=True, allow_none=True)


class AdminJobListSchema(Schema):
    """A page of everybody's jobs."""

    success = fields.Boolean(required=True)
    jobs = fields.List(fields.Nested(OwnedJobSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class AdminJobDetailSchema(AdminJobSchema, JobDetailSchema):
    """A job, with why it waits."""


class AdminJobEnvelope(Schema):
    """The answer about one job."""

    success = fields.Boolean(required=True)
    job = fields.Nested(AdminJobDetailSchema, required=True)


class JobsOrder(Schema):
    """What to do to many jobs: those with the ids, or all that the filter matches."""

    action = fields.String(required=True, validate=validate.OneOf([*Action]))
    ids = BoundedList(fields.UUID(), most=MOST_IDS, validate=validate.Length(1))
    filter = fields.Nested(AdminJobFilter)
    dry_run = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "Only tell how many would be touched."},
    )
    terminate = fields.Boolean(
        load_default=False,
        truthy={True},
        falsy={False},
        metadata={"description": "Of a cancel: kill at once."},
    )
    priority = fields.Integer(
        strict=True,
        validate=validate.Range(PRIORITIES.start, PRIORITIES.stop - 1),
        metadata={"description": "Of `priority`: the new one, 10 the most urgent."},
    )

    @validates_schema
    def _one_of_both(self, data: dict[str, Any], **_: object) -> None:
        if ("ids" in data) == ("filter" in data):
            raise ValidationError("Give either ids or a filter.", "ids")
        if (data["action"] == Action.PRIORITY) != ("priority" in data):
            raise ValidationError("Goes with the action priority, and only with it.", "priority")


class PauseRequest(Schema):
    """Why; those who wait are told."""

    reason = fields.String(load_default="", validate=validate.Length(max=LONGEST_REASON))


class PauseSchema(Schema):
    """Since when something is paused, by whom and why."""

    paused_at = fields.DateTime(required=True)
    paused_by = fields.String(required=True)
    reason = fields.String(required=True)


class QueueSchema(Schema):
    """A queue."""

    name = fields.String(required=True, validate=validate.OneOf([*Queue]))
    ready = fields.Integer(required=True)
    later = fields.Integer(required=True, metadata={"description": "Wait for their time."})
    running = fields.Integer(required=True)
    oldest_wait_seconds = fields.Float(required=True)
    slots = fields.Integer(required=True)
    drained_slots = fields.Integer(required=True)
    pause = fields.Nested(PauseSchema, required=True, allow_none=True)


class QueueListSchema(Schema):
    """Every queue."""

    success = fields.Boolean(required=True)
    queues = fields.List(fields.Nested(QueueSchema), required=True)


class KindSchema(Schema):
    """A kind of job, and how many jobs of it are in each state of the ledger."""

    name = fields.String(required=True)
    title = fields.String(required=True)
    queue = fields.String(required=True, allow_none=True)
    states = fields.Dict(keys=fields.String(), values=fields.Integer(), required=True)
    pause = fields.Nested(PauseSchema, required=True, allow_none=True)


class KindListSchema(Schema):
    """Every kind."""

    success = fields.Boolean(required=True)
    kinds = fields.List(fields.Nested(KindSchema), required=True)


class RunningSchema(Schema):
    """What a slot runs."""

    job_id = fields.UUID(attribute="id", required=True)
    kind = fields.String(required=True)
    label = fields.String(required=True)
    state = fields.String(required=True)
    slot = fields.String(attribute="worker", required=True)
    started_at = fields.DateTime(required=True, allow_none=True)


class WorkerSchema(Schema):
    """A worker. `is_free`: it is drained, and the last of its slots holds no job."""

    name = fields.String(required=True)
    queues = fields.List(fields.String(), required=True)
    slots = fields.Integer(required=True)
    busy = fields.Integer(required=True)
    is_alive = fields.Boolean(required=True)
    is_free = fields.Boolean(required=True)
    started_at = fields.DateTime(required=True, allow_none=True)
    seen_at = fields.DateTime(required=True, allow_none=True)
    running = fields.List(fields.Nested(RunningSchema), required=True)
    pause = fields.Nested(PauseSchema, required=True, allow_none=True)


class WorkerListSchema(Schema):
    """Every worker."""

    success = fields.Boolean(required=True)
    workers = fields.List(fields.Nested(WorkerSchema), required=True)


class ActSchema(Schema):
    """What was done: by whom, when, and to how many."""

    id = fields.UUID(required=True)
    action = fields.String(required=True)
    target = fields.String(required=True)
    filter = fields.Dict(keys=fields.String(), required=True, allow_none=True)
    options = fields.Dict(keys=fields.String(), required=True, allow_none=True)
    by = fields.String(required=True)
    user_id = fields.Integer(required=True, allow_none=True)
    via = fields.String(required=True, validate=validate.OneOf(["http", "command"]))
    started_at = fields.DateTime(required=True)
    finished_at = fields.DateTime(required=True, allow_none=True)
    matched = fields.Integer(required=True)
    done = fields.Integer(required=True)


class ActListSchema(Schema):
    """A page of what was done."""

    success = fields.Boolean(required=True)
    acts = fields.List(fields.Nested(ActSchema), required=True)
    next_cursor = fields.String(required=True, allow_none=True)


class ActResult(Schema):
    """What an act did so far; without `finished_at`, the rest is being done."""

    success = fields.Boolean(required=True)
    message = fields.String(required=True)
    act = fields.Nested(ActSchema, required=True)


class OrderResult(Schema):
    """What an act on many jobs did so far, or with `dry_run` would do."""

    success = fields.Boolean(required=True)
    message = fields.String(required=True)
    dry_run = fields.Boolean(required=True)
    matched = fields.Integer(required=True)
    done = fields.Integer(required=True)
    act = fields.Nested(ActSchema, required=True, allow_none=True)
