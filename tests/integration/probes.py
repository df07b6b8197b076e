"""Kinds of job for real processes: they leave traces in files, and effects in the ledger."""

import os
import time
from pathlib import Path
from typing import Any

from marshmallow import Schema, fields
from sqlalchemy.orm import Session

from backend import wiring
from backend.clock import utc_now
from backend.jobs import JobContext, Queue, Retry, job
from backend.jobs.kinds import JobKind, Kinds
from backend.jobs.models import LogLine

EFFECT = "the effect of the whole"
LONGEST = 60  # seconds, so that a test that fails leaves nothing running for long


class GateParams(Schema):
    """`folder` is where the attempt says that it has begun, and waits for a file `go`."""

    folder = fields.String(required=True)


class NoParams(Schema):
    """A kind without parameters."""


class NapParams(Schema):
    """For how long to sleep."""

    seconds = fields.Float(required=True)


class StepsParams(GateParams):
    """How many steps to go, the last of them once there is a file `go`."""

    count = fields.Integer(required=True)


def take_effect(ctx: JobContext, message: str = EFFECT) -> None:
    """Leave a trace in the ledger with the finish of the job."""
    ctx.at_finish(lambda session: add_trace(ctx, session, message))


def add_trace(ctx: JobContext, session: Session, message: str) -> None:
    session.add(
        LogLine(job_id=ctx.job_id, attempt=ctx.attempt, at=utc_now(), level="info", message=message)
    )


def wait_for_go(ctx: JobContext, folder: Path) -> None:
    """Say who runs, and wait; heeds a cancel."""
    (folder / f"begun-{ctx.attempt}").write_text(str(os.getpid()))
    until = time.monotonic() + LONGEST
    while not (folder / "go").exists() and time.monotonic() < until:
        ctx.check_cancelled()
        time.sleep(0.02)


@job("probe.gate", params=GateParams, retry=Retry(attempts=5))
def gate(ctx: JobContext, *, folder: str) -> dict[str, Any]:
    """Wait for the file `go`, and take effect."""
    (ctx.workspace / "scratch").write_bytes(b"x" * 1000)
    wait_for_go(ctx, Path(folder))
    take_effect(ctx)
    return {"attempt": ctx.attempt}


@job("probe.steps", params=StepsParams, retry=Retry(attempts=1))
def steps(ctx: JobContext, *, folder: str, count: int) -> dict[str, Any]:
    """Take steps, each once, however often the job is begun anew."""
    first = (ctx.last_checkpoint or {}).get("done", 0)
    for number in range(first, count):
        if number == count - 1:
            wait_for_go(ctx, Path(folder))
        with ctx.transaction() as session:
            add_trace(ctx, session, f"step {number}")
            ctx.checkpoint({"done": number + 1})
    take_effect(ctx)
    return {"from": first}


@job("probe.close", params=NoParams)
def close(ctx: JobContext) -> dict[str, Any]:
    """The closing step of a batch."""
    return {}


@job("probe.nap", params=NapParams)
def nap(ctx: JobContext, *, seconds: float) -> dict[str, Any]:
    """Sleep, and take effect."""
    time.sleep(seconds)
    take_effect(ctx)
    return {}


@job("probe.urgent_nap", params=NapParams, queue=Queue.HIGH)
def urgent_nap(ctx: JobContext, *, seconds: float) -> dict[str, Any]:
    """Sleep, in the queue of high priority."""
    return nap(ctx, seconds=seconds)


@job("probe.idle_nap", params=NapParams, queue=Queue.LOW)
def idle_nap(ctx: JobContext, *, seconds: float) -> dict[str, Any]:
    """Sleep, in the queue of low priority."""
    return nap(ctx, seconds=seconds)


PROBES: tuple[JobKind[..., Any], ...] = (gate, steps, close, nap, urgent_nap, idle_nap)
KINDS = Kinds((*wiring.JOB_KINDS, *PROBES))
