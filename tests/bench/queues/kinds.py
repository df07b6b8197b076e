"""Sluice's kinds of job for the bench, and the application and the Celery instance with them."""

from pathlib import Path
from typing import Any

from marshmallow import Schema, fields

from backend import wiring
from backend.app import create_app
from backend.errors import Unavailable
from backend.jobs import JobContext, Queue, Retry, job
from backend.jobs.kinds import JobKind, Kinds
from tests.bench.queues.trace import tell_the_time


class NoParams(Schema):
    """A kind without parameters."""


class ClockedParams(Schema):
    """The folder of `trace.sock`."""

    folder = fields.String(required=True)


@job("bench.nothing", params=NoParams)
def nothing(ctx: JobContext) -> dict[str, Any]:
    """Do nothing."""
    return {}


@job("bench.nothing_low", params=NoParams, queue=Queue.LOW)
def nothing_low(ctx: JobContext) -> dict[str, Any]:
    """Do nothing, in the queue of low priority."""
    return {}


@job("bench.nothing_high", params=NoParams, queue=Queue.HIGH)
def nothing_high(ctx: JobContext) -> dict[str, Any]:
    """Do nothing, in the queue of high priority."""
    return {}


@job("bench.clocked", params=ClockedParams)
def clocked(ctx: JobContext, *, folder: str) -> dict[str, Any]:
    """Tell the time."""
    tell_the_time(Path(folder))
    return {}


@job("bench.clocked_high", params=ClockedParams, queue=Queue.HIGH)
def clocked_high(ctx: JobContext, *, folder: str) -> dict[str, Any]:
    """Tell the time, in the queue of high priority."""
    tell_the_time(Path(folder))
    return {}


@job(
    "bench.eventful",
    params=NoParams,
    retry=Retry(attempts=12, delay=1.5, max_delay=1.5),
)
def eventful(ctx: JobContext) -> dict[str, Any]:
    """Fail until the last attempt, so that much happens to the job."""
    if ctx.attempt < 12:
        raise Unavailable("not yet")
    return {}


BENCH: tuple[JobKind[..., Any], ...] = (
    *(nothing, nothing_low, nothing_high),
    *(clocked, clocked_high),
    eventful,
)

# Celery would take a Flask application in its module for its own, so it has another name there.
web = create_app()
web.extensions["sluice.kinds"] = Kinds((*wiring.JOB_KINDS, *BENCH))
