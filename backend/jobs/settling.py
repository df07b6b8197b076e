"""What becomes of a job whose attempt's process has ended without saying so itself."""

import signal
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from sqlalchemy.orm import Session

from backend.jobs import attempts
from backend.jobs.attempts import MOST_UNCHARGED
from backend.jobs.body import NOT_RECORDED, UNBEGUN
from backend.jobs.models import Job

Why = Literal["cancelled", "time_limit", "lease_lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the process ended: with which code, as `os.waitstatus_to_exitcode` gives it.

    `by_deploy` says that the slot is to end too, `why` for what the slot killed it.
    """

    code: int
    by_deploy: bool
    why: Why | None
    hard_limit: timedelta | None

    @property
    def reason(self) -> str:
        """The sentence for an attempt that was lost."""
        if self.why == "lease_lost":
            return "The worker was lost: it could not renew its lease"
        if self.code < 0:
            name = signal.Signals(-self.code).name
            return f"The worker was lost: its process was ended by {name}"
        return f"The worker was lost: its process ended with exit code {self.code}"


def settle(session: Session, job: Job, ending: Ending, *, had_begun: bool) -> str:
    """Record the end of the attempt that holds a job; return the word for it."""
    fence = attempts.fence_of(job)
    if ending.by_deploy:
        note = "Handed back by a deploy; it runs again from its last checkpoint."
        if attempts.give_back(session, fence, "handed_back", note=note, charged=False):
            attempts.log_end(session, fence, note)
        return "handed_back"
    if not had_begun and job.uncharged < MOST_UNCHARGED:
        attempts.give_back(session, fence, "handed_back", note=UNBEGUN, charged=False)
        return "handed_back"
    if had_begun and ending.code == NOT_RECORDED:
        attempts.interrupt(session, fence, "The database was away.")
        return "interrupted"
    if had_begun and ending.why == "cancelled":
        attempts.stop(session, fence, "killed")
        return "killed"
    if had_begun and ending.why == "time_limit" and ending.hard_limit:
        minutes = ending.hard_limit.total_seconds() / 60
        sentence = f"This took longer than the {minutes:g} minutes that are allowed."
        attempts.log_end(session, fence, sentence)
        attempts.fail(session, fence, sentence, code="time_limit", outcome="killed")
        return "killed"
    attempts.lose(session, fence, ending.reason)
    return "lost"
