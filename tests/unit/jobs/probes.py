"""Kinds of job that do what tests want to see."""

from collections.abc import Callable
from typing import Any

from marshmallow import Schema, fields

from backend.jobs import FileId, JobContext, Queue, Retry, job
from backend.jobs.kinds import JobKind


class NoParams(Schema):
    """A kind without parameters."""


class EchoParams(Schema):
    text = fields.String(load_default="hello")


class ReadParams(Schema):
    file_id = FileId(required=True)


class ItemsParams(Schema):
    count = fields.Integer(required=True)


@job("probe.echo", params=EchoParams)
def echo(ctx: JobContext, *, text: str = "hello") -> dict[str, Any]:
    """Succeed with what was given."""
    return {"text": text, "attempt": ctx.attempt}


@job("probe.once", params=NoParams, retry=Retry(attempts=1))
def once(ctx: JobContext) -> dict[str, Any]:
    """Succeed, with one attempt."""
    return {}


@job("probe.urgent", params=NoParams, queue=Queue.HIGH)
def urgent(ctx: JobContext) -> dict[str, Any]:
    """Succeed, from the queue of high priority."""
    return {}


@job("probe.items", params=ItemsParams, stages={"read": 1, "write": 3})
def items(ctx: JobContext, *, count: int) -> dict[str, Any]:
    """Go through so many items."""
    done = list(ctx.track("write", range(count)))
    return {"items": len(done)}


@job("probe.read", params=ReadParams)
def read(ctx: JobContext, *, file_id: int) -> dict[str, Any]:
    """Read a stored file."""
    return {"file_id": file_id}


@job("probe.close", params=NoParams, stages={"work": 4, "close": 1})
def close(ctx: JobContext) -> dict[str, Any]:
    """The closing step of a batch."""
    return {"closed": ctx.attempt}


KINDS: tuple[JobKind[..., Any], ...] = (echo, once, urgent, items, read, close)

Body = Callable[[JobContext], Any]


def kind_of(body: Body, **options: Any) -> JobKind[[], Any]:
    """A kind `probe.body` that runs a test's own function."""

    def run(ctx: JobContext) -> Any:
        return body(ctx)

    options.setdefault("params", NoParams)
    return job("probe.body", **options)(run)
