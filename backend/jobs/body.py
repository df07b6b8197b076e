"""The attempt's own process: runs the kind's function and records what came of it.

It is forked for each attempt. So it can be killed with everything that it started, a crash or a
leak in a library ends with it, and the process that watches over it goes on.
"""

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

import structlog
from marshmallow import ValidationError
from sqlalchemy.orm import Session

from backend.clock import utc_now
from backend.config import Settings
from backend.db import AWAY, db, transaction
from backend.errors import AppError
from backend.jobs import artifacts, attempts
from backend.jobs.attempts import Claim, Progress
from backend.jobs.context import Cancelled, JobContext, LeaseLost, SoftLimitReached
from backend.jobs.kinds import JobKind
from backend.jobs.shared_page import SharedPage
from backend.jobs.workspace import workspace_of

log = structlog.get_logger(__name__)

# Exit codes: none that a library would choose, so that os._exit(0) is not taken for a success.
RECORDED, LEASE_LOST, NOT_RECORDED = 101, 102, 103
LONGEST_LINE = 2000
# So many attempts may be cut short by a database that is away before one is charged: a job whose
# own statements make the database give up must come to an end too.
MOST_UNCHARGED = 20
T = TypeVar("T")

Record = Callable[[Session], object]


def run(
    kind: JobKind[Any, Any], held: Claim, page: SharedPage, lines: int, settings: Settings
) -> int:
    """Run the attempt to its end; return the exit code. `lines` is the log's file descriptor."""
    signal.signal(signal.SIGUSR1, _interrupt)
    voice = _Voice(page, lines)
    ctx = JobContext(
        workspace=workspace_of(settings, held),
        kind=kind,
        job_id=held.job_id,
        owner_id=held.owner_id,
        attempt=held.attempt,
        last_checkpoint=held.checkpoint,
        reporter=voice,
        fenced=lambda: _fenced(held),
        keep_checkpoint=lambda state: _checkpoint(held, state),
    )
    try:
        outcome = _outcome(kind, held, ctx, settings.lease_seconds)
        try:
            return _record(outcome, settings.lease_seconds)
        except Exception as error:  # noqa: BLE001 - an effect refused; that too is recorded
            return _record(_failure(kind, held, ctx, error), settings.lease_seconds)
    except LeaseLost:
        return LEASE_LOST


def _outcome(kind: JobKind[Any, Any], held: Claim, ctx: JobContext, lease_seconds: float) -> Record:
    """Call the function; return what to write, whatever it did."""
    try:
        ctx.workspace.mkdir(parents=True, mode=0o700)
        params = kind.params().load(held.params)
        value = kind(ctx, **params)
        result = kind.result().dump(value) if kind.result else dict(value or {})
        db.session.remove()  # nothing that the function has read stays open while files are moved
        kept = [
            _patiently(partial(artifacts.keep, held.owner_id, file), lease_seconds)
            for file in ctx.published
        ]
    except Cancelled:
        return lambda session: attempts.stop(session, held)
    except SoftLimitReached:
        minutes = kind.soft_limit.total_seconds() / 60
        sentence = f"This took longer than the {minutes:g} minutes that are allowed."
        return _given_up(held, ctx, sentence, "time_limit")
    except ValidationError as error:
        sentence = f"The job's parameters are not valid: {error.messages}"
        return _given_up(held, ctx, sentence, "invalid_params")
    except AWAY as error:
        return _interrupted(held, ctx, error)
    except Exception as error:  # noqa: BLE001 - the edge of the job: everything is recorded
        return _failure(kind, held, ctx, error)
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def finish(session: Session) -> None:
        if attempts.finish(session, held, result) is None:
            raise LeaseLost
        for artifact in kept:
            artifact(session, held.job_id)
        for effect in ctx.effects:
            effect(session)

    return finish


def _given_up(held: Claim, ctx: JobContext, sentence: str, code: str) -> Record:
    ctx.log(sentence, level="error")
    return lambda session: attempts.fail(session, held, sentence, code=code)


def _failure(kind: JobKind[Any, Any], held: Claim, ctx: JobContext, error: Exception) -> Record:
    if isinstance(error, AppError):
        sentence, code = error.detail, error.code
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        sentence, code = "There was no room left on the disk for this job's files.", "disk_full"
        log.error("disk_full", exc_info=error)
    else:
        sentence = f"An unexpected error stopped this job ({type(error).__name__}). It was logged."
        code = "internal"
        log.error("job_crashed", exc_info=error)
    if isinstance(error, kind.retry.on) and held.attempts_left > 0:
        # Counted since it was last started by a person, and without what deploys handed back.
        wait = kind.retry.wait_seconds(max(1, kind.retry.attempts - held.attempts_left))
        ctx.log(f"{sentence} It is tried again in {wait:.0f} seconds.", level="warning")
        return lambda session: attempts.try_later(
            session, held, sentence, code=code, wait_seconds=wait
        )
    return _given_up(held, ctx, sentence, code)


def _interrupted(held: Claim, ctx: JobContext, error: Exception) -> Record:
    """The database went away under the function: no fault of the job's, which runs again."""
    log.warning("database_away", exc_info=error)
    note = f"The database was away ({type(error).__name__}); this runs again."
    ctx.log(note, level="warning")
    if held.attempt < MOST_UNCHARGED:
        return lambda session: attempts.give_back(
            session, held, "interrupted", note=note, charged=False
        )
    return lambda session: attempts.lose(session, held, note)


def _record(outcome: Record, lease_seconds: float) -> int:
    """Write the outcome; while the database is away, keep trying for as long as a lease lasts."""

    def write() -> None:
        with transaction() as session:
            outcome(session)

    db.session.remove()  # whatever the function did to it
    try:
        _patiently(write, lease_seconds)
    except AWAY:
        log.exception("outcome_not_recorded")
        return NOT_RECORDED
    return RECORDED


def _patiently(call: Callable[[], T], seconds: float) -> T:
    """Call again while the database is away, for so long."""
    until = time.monotonic() + seconds
    while True:
        try:
            return call()
        except AWAY:
            db.session.remove()
            if time.monotonic() > until:
                raise
            time.sleep(0.3)


@contextmanager
def _fenced(held: Claim) -> Iterator[Session]:
    with transaction() as session:
        if not attempts.hold(session, held):
            raise LeaseLost
        yield session


def _checkpoint(held: Claim, state: dict[str, Any]) -> None:
    with transaction() as session:
        if not attempts.save_checkpoint(session, held, state):
            raise LeaseLost


def _interrupt(*_: object) -> NoReturn:
    raise SoftLimitReached


class _Voice:
    """Progress goes to the shared page, log lines down a pipe to the watcher."""

    def __init__(self, page: SharedPage, lines: int) -> None:
        self._page, self._lines = page, lines

    @property
    def stop_wanted(self) -> bool:
        return self._page.stop_wanted

    def progress(
        self, percent: float, stage: str, message: str, done: int | None, total: int | None
    ) -> None:
        shown = Progress(
            percent=percent,
            stage=stage,
            message=_storable(message, LONGEST_LINE),
            items_done=done,
            items_total=total,
        )
        self._page.post(shown)

    def line(self, level: str, message: str) -> None:
        level, message = level if level in _LEVELS else "info", _storable(message, LONGEST_LINE)
        log.log(_LEVELS[level], message)
        entry = [utc_now().isoformat(), level, message]
        with suppress(OSError):  # the function has closed what it did not open
            os.write(self._lines, json.dumps(entry).encode() + b"\n")


_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def _storable(text: str, longest: int) -> str:
    """What every database takes: no NUL, and no halves of surrogate pairs."""
    return text[:longest].replace("\0", "?").encode(errors="replace").decode()
