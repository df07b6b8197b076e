"""Kinds of job for real processes: they leave traces in files, and effects in the ledger.

Every attempt adds a line to the file `begun` beside the data folder, so that a run that should not
have been is seen even where it had no effect. An effect is a row that is written in the transaction
which finishes the item or the job.
"""

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from flask import current_app
from marshmallow import Schema, fields, validate
from sqlalchemy.orm import Session

from backend import wiring
from backend.clock import utc_now
from backend.errors import Unavailable
from backend.jobs import JobContext, Queue, Retry, job
from backend.jobs.kinds import JobKind, Kinds
from backend.jobs.models import LogLine

EFFECT = "the effect of the whole"
STEP = "the effect of step"
BEGUN = "begun"
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


class WalkParams(NapParams):
    """How many steps to go, and how long each takes."""

    count = fields.Integer(required=True)


class CrashParams(Schema):
    """How the attempt's process is to end."""

    by = fields.String(required=True, validate=validate.OneOf(("segfault", "memory", "kill")))


class FlakyParams(Schema):
    """How many attempts fail before one succeeds."""

    failures = fields.Integer(required=True)


def begin(ctx: JobContext) -> None:
    """Leave a trace of this attempt, whatever becomes of it."""
    with (current_app.config["SLUICE"].data_dir.parent / BEGUN).open("a") as begun:
        begun.write(f"{ctx.job_id} {ctx.attempt} {os.getpid()}\n")


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
    begin(ctx)
    (ctx.workspace / "scratch").write_bytes(b"x" * 1000)
    wait_for_go(ctx, Path(folder))
    take_effect(ctx)
    return {"attempt": ctx.attempt}


@job("probe.steps", params=StepsParams, retry=Retry(attempts=1))
def steps(ctx: JobContext, *, folder: str, count: int) -> dict[str, Any]:
    """Take steps, each once, however often the job is begun anew."""
    begin(ctx)
    first = (ctx.last_checkpoint or {}).get("done", 0)
    for number in range(first, count):
        if number == count - 1:
            wait_for_go(ctx, Path(folder))
        with ctx.transaction() as session:
            add_trace(ctx, session, f"{STEP} {number}")
            ctx.checkpoint({"done": number + 1})
    take_effect(ctx)
    return {"from": first}


@job("probe.walk", params=WalkParams, retry=Retry(attempts=5))
def walk(ctx: JobContext, *, count: int, seconds: float) -> dict[str, Any]:
    """Take steps, each once, and stop at a cancel."""
    begin(ctx)
    for number in range((ctx.last_checkpoint or {}).get("done", 0), count):
        ctx.check_cancelled()
        time.sleep(seconds)
        with ctx.transaction() as session:
            add_trace(ctx, session, f"{STEP} {number}")
            ctx.checkpoint({"done": number + 1})
    take_effect(ctx)
    return {}


@job("probe.close", params=NoParams)
def close(ctx: JobContext) -> dict[str, Any]:
    """The closing step of a batch."""
    begin(ctx)
    take_effect(ctx)
    return {}


@job("probe.nap", params=NapParams)
def nap(ctx: JobContext, *, seconds: float) -> dict[str, Any]:
    """Sleep, and take effect."""
    begin(ctx)
    time.sleep(seconds)
    take_effect(ctx)
    return {}


@job("probe.tick", params=NoParams)
def tick(ctx: JobContext) -> dict[str, Any]:
    """What schedules start; takes effect."""
    begin(ctx)
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


@job("probe.deaf", params=GateParams, retry=Retry(attempts=5))
def deaf(ctx: JobContext, *, folder: str) -> dict[str, Any]:
    """Start a program in a session of its own, and heed no cancel."""
    begin(ctx)
    program = subprocess.Popen(["sleep", str(LONGEST)], start_new_session=True)
    (Path(folder) / "program").write_text(str(program.pid))
    (Path(folder) / f"begun-{ctx.attempt}").write_text(str(os.getpid()))
    program.wait()
    take_effect(ctx)
    return {}


@job("probe.crash", params=CrashParams, retry=Retry(attempts=2))
def crash(ctx: JobContext, *, by: str) -> dict[str, Any]:
    """End the attempt's process in the middle of the job."""
    begin(ctx)
    if by == "memory":
        hoard = []
        while True:
            hoard.append(b"x" * 2**26)
    if by == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@job("probe.flaky", params=FlakyParams, retry=Retry(attempts=3, delay=0.2))
def flaky(ctx: JobContext, *, failures: int) -> dict[str, Any]:
    """Fail so many times with what may help later, then take effect."""
    begin(ctx)
    take_effect(ctx)
    if ctx.attempt <= failures:
        raise Unavailable("The probe is not to be had just now.")
    return {}


@job("probe.fill", params=NoParams)
def fill(ctx: JobContext) -> dict[str, Any]:
    """Write scratch files until there is no room left on the disk."""
    begin(ctx)
    with (ctx.workspace / "scratch").open("wb") as scratch:
        while True:
            scratch.write(b"x" * 2**20)


LAUNCHER = "while :; do sleep 60 & sleep 0.002; done"


@job("probe.launch", params=NoParams, retry=Retry(attempts=1))
def launch(ctx: JobContext) -> dict[str, Any]:
    """Start, in a session of its own, what goes on starting programs; and end in mid-job."""
    begin(ctx)
    launcher = subprocess.Popen(["bash", "-c", LAUNCHER], start_new_session=True)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    while len(children.read_text().split()) < 20:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


PROBES: tuple[JobKind[..., Any], ...] = (
    *(gate, steps, walk, close, nap, urgent_nap, idle_nap),
    *(tick, deaf, crash, flaky, fill, launch),
)
KINDS = Kinds((*wiring.JOB_KINDS, *PROBES))
