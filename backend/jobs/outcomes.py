"""Calls a kind's function, and says how that ended and what is to be written of it.

Nothing that the function does goes past this: every exception becomes an outcome.
"""

import errno
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog
from marshmallow import ValidationError
from sqlalchemy.orm import Session

from backend.clock import utc_now
from backend.config import Settings
from backend.db import AWAY, db, transaction
from backend.errors import AppError, InvalidInput
from backend.jobs import artifacts, attempts, workspace
from backend.jobs.attempts import Progress
from backend.jobs.claims import Claim, Fence
from backend.jobs.context import Cancelled, JobContext, LeaseLost, SoftLimitReached
from backend.jobs.kinds import JobKind
from backend.jobs.shared_page import SharedPage

log = structlog.get_logger(__name__)

LONGEST_LINE = 2000
LONGEST_PASSED = 4000  # of a result that is recorded with others
PAUSE_SECONDS = 0.3  # between two tries while the database is away
MOST_CHECKPOINT_BYTES = 1024 * 1024  # as JSON; whatever is larger belongs into a file
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, and what writes it into the ledger.

    `record` returns None when the job is no longer this attempt's.
    """

    word: str
    record: Callable[[Session], object]
    # All that there is to record, where that is a small result alone.
    result: dict[str, Any] | None = None
    # Whether the function was left in a place that it did not choose.
    torn: bool = False


def unknown_kind(held: Claim) -> Outcome:
    """The outcome for a kind that this version of the application does not have."""
    sentence = f"No kind of job is called {held.kind!r} in this version of the application."
    return _failed(held, sentence, "unknown_kind")


@dataclass(slots=True)
class Call:
    """A kind's function with the context of one attempt."""

    kind: JobKind[Any, Any]
    held: Claim
    settings: Settings
    page: SharedPage
    voice: "Voice"
    ctx: JobContext = field(init=False)

    def __post_init__(self) -> None:
        self.ctx = JobContext(
            folder=workspace.workspace_of(self.settings, self.held),
            kind=self.kind,
            job_id=self.held.job_id,
            owner_id=self.held.owner_id,
            attempt=self.held.attempt,
            last_checkpoint=self.held.checkpoint,
            reporter=self.voice,
            fenced=lambda: _fenced(self.held),
            keep_checkpoint=lambda state: _checkpoint(self.held, state),
        )

    def outcome(self) -> Outcome:
        """Call the function; return how it ended, whatever it did."""
        signal.signal(signal.SIGUSR1, self._interrupt)
        try:
            return self._succeeded(*self._results())
        except LeaseLost:
            return Outcome("lost", lambda _: None)
        except Cancelled:
            return Outcome("cancelled", partial(attempts.stop, held=self.held))
        except SoftLimitReached:
            minutes = self.kind.soft_limit.total_seconds() / 60
            sentence = f"This took longer than the {minutes:g} minutes that are allowed."
            return self._given_up(sentence, "time_limit", torn=True)
        except AWAY as error:
            return self._interrupted(error)
        except Exception as error:  # noqa: BLE001 - the edge of the job: everything is recorded
            return self.failure(error)
        finally:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def failure(self, error: Exception) -> Outcome:
        """The outcome of an error: tried again later, or the job's end."""
        if isinstance(error, AppError):
            sentence, code = error.detail, error.code
        elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
            sentence, code = "There was no room left on the disk for this job's files.", "disk_full"
            log.error("disk_full", exc_info=error)
        else:
            sentence = (
                f"An unexpected error stopped this job ({type(error).__name__}). It was logged."
            )
            code = "internal"
            log.error("job_crashed", exc_info=error)
        retry, held = self.kind.retry, self.held
        if not (isinstance(error, retry.on) and held.attempts_left > 0):
            return self._given_up(sentence, code)
        # Counted since it was last started by a person, and without what deploys handed back.
        wait = retry.wait_seconds(max(1, retry.attempts - held.attempts_left))
        self.ctx.log(f"{sentence} It is tried again in {wait:.0f} seconds.", level="warning")
        later = partial(attempts.try_later, held=held, error=sentence, code=code, wait_seconds=wait)
        return Outcome("failed", later)

    def _results(self) -> tuple[dict[str, Any], list[artifacts.Record]]:
        result = self._dumped(self.kind(self.ctx, **self._params()))
        if not self.ctx.published:
            return result, []
        db.session.remove()  # nothing that the function has read stays open while files are moved
        keep = partial(artifacts.keep, self.held.owner_id)
        lease_seconds = self.settings.lease_seconds
        return result, [
            patiently(partial(keep, file), lease_seconds) for file in self.ctx.published
        ]

    def _params(self) -> dict[str, Any]:
        try:
            params: dict[str, Any] = self.kind.params_schema.load(self.held.params)
        except ValidationError as error:
            sentence = f"The job's parameters are not valid: {error.messages}"
            raise InvalidInput(sentence, code="invalid_params") from None
        return params

    def _dumped(self, value: Any) -> dict[str, Any]:
        schema = self.kind.result_schema
        if schema is None:
            return dict(value or {})
        result: dict[str, Any] = schema.dump(value)
        wrong = schema.validate(result)
        if wrong:
            sentence = f"The result of {self.kind.name} is not what its schema says: {wrong}"
            raise InvalidInput(sentence, code="invalid_result")
        return result

    def _succeeded(self, result: dict[str, Any], kept: list[artifacts.Record]) -> Outcome:
        def finish(session: Session) -> object:
            ended = attempts.finish(session, self.held, result)
            if ended is None:
                return None
            for artifact in kept:
                artifact(session, self.held.job_id)
            for effect in self.ctx.effects:
                effect(session)
            return ended

        # Not every database takes what JSON does not have.
        is_small = len(json.dumps(result, allow_nan=False)) <= LONGEST_PASSED
        is_all = is_small and not (kept or self.ctx.effects)
        return Outcome("succeeded", finish, result if is_all else None)

    def _given_up(self, sentence: str, code: str, *, torn: bool = False) -> Outcome:
        self.ctx.log(sentence, level="error")
        return _failed(self.held, sentence, code, torn=torn)

    def _interrupted(self, error: Exception) -> Outcome:
        """The database went away under the function: no fault of the job's, which runs again."""
        log.warning("database_away", exc_info=error)
        note = f"The database was away ({type(error).__name__}); this runs again."
        self.ctx.log(note, level="warning")
        return Outcome("interrupted", partial(attempts.interrupt, held=self.held, note=note))

    def _interrupt(self, *_: object) -> None:
        if self.page.interrupt_wanted:  # and not that of the attempt before
            raise SoftLimitReached


def _failed(held: Fence, sentence: str, code: str, *, torn: bool = False) -> Outcome:
    record = partial(attempts.fail, held=held, error=sentence, code=code)
    return Outcome("failed", record, torn=torn)


def patiently(call: Callable[[], T], seconds: float) -> T:
    """Call again while the database is away, for so long."""
    until = time.monotonic() + seconds
    while True:
        try:
            return call()
        except AWAY:
            db.session.remove()
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE_SECONDS)


@contextmanager
def _fenced(held: Fence) -> Iterator[Session]:
    with transaction() as session:
        if not attempts.hold(session, held):
            raise LeaseLost
        yield session


def _checkpoint(held: Fence, state: dict[str, Any]) -> None:
    size = len(json.dumps(state))
    if size > MOST_CHECKPOINT_BYTES:
        raise InvalidInput(
            f"A checkpoint of {size} bytes is too large: at most {MOST_CHECKPOINT_BYTES} are kept.",
            code="checkpoint_too_large",
        )
    with transaction() as session:
        if not attempts.save_checkpoint(session, held, state):
            raise LeaseLost


class Voice:
    """Progress goes to the shared page, log lines down a pipe to the slot."""

    def __init__(self, held: Fence, page: SharedPage, lines: int) -> None:
        self._held, self._page, self._lines = held, page, lines
        self.has_spoken = False

    @property
    def stop_wanted(self) -> bool:
        """Whether the attempt is asked to stop."""
        return self._page.stop_wanted

    def progress(
        self, percent: float, stage: str, message: str, done: int | None, total: int | None
    ) -> None:
        """Show how far the attempt is."""
        shown = Progress(
            percent=percent,
            stage=stage,
            message=_storable(message, LONGEST_LINE),
            items_done=done,
            items_total=total,
        )
        self._page.post(shown)

    def line(self, level: str, message: str) -> None:
        """Add a line to the job's log; one that is too long is cut."""
        level, message = level if level in _LEVELS else "info", _storable(message, LONGEST_LINE)
        log.log(_LEVELS[level], message)
        self.has_spoken = True
        of = [self._held.job_id.hex, self._held.token.hex, self._held.attempt]
        entry = ["line", *of, utc_now().isoformat(), level, message]
        with suppress(OSError):  # the function has closed what it did not open
            os.write(self._lines, json.dumps(entry).encode() + b"\n")


_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def _storable(text: str, longest: int) -> str:
    """What every database takes: no NUL, and no halves of surrogate pairs."""
    return text[:longest].replace("\0", "?").encode(errors="replace").decode()
