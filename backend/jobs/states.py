"""The states of a job, the moves between them, and the names that callers know them by."""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life."""

    WAITING = "waiting"  # a batch whose children are not all done
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"  # failed, and due again at `run_at`
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = JobState

READY = frozenset({S.QUEUED, S.RETRYING})
LEASED = frozenset({S.RUNNING, S.CANCELLING})
ENDED = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
ACTIVE = frozenset(S) - ENDED

MOVES: dict[JobState, frozenset[JobState]] = {
    S.WAITING: frozenset({S.QUEUED, S.CANCELLING, S.CANCELLED}),
    S.QUEUED: frozenset({S.RUNNING, S.CANCELLED}),
    S.RETRYING: frozenset({S.RUNNING, S.CANCELLED, S.QUEUED}),
    S.RUNNING: frozenset({S.SUCCEEDED, S.FAILED, S.RETRYING, S.QUEUED, S.CANCELLING, S.CANCELLED}),
    # To itself: asked again, or by force.
    S.CANCELLING: frozenset({S.CANCELLED, S.SUCCEEDED, S.FAILED, S.CANCELLING}),
    # An ended job moves again only when a person asks for it.
    S.FAILED: frozenset({S.QUEUED, S.WAITING}),
    S.CANCELLED: frozenset({S.QUEUED, S.WAITING}),
    S.SUCCEEDED: frozenset({S.WAITING}),  # a batch of which some items failed
}


def as_shown(state: str, *, begun: bool) -> JobState:
    """The state as callers see it: a job that has begun never looks as if it had not.

    A batch is queued again for its closing step, and a job whose worker was lost for its next
    attempt; to its owner both are under way.
    """
    return S.RUNNING if state == S.QUEUED and begun else JobState(state)


# `job.state` in the contract: Celery's names, which earlier clients read.
CLIENT_STATE: dict[JobState, str] = {
    S.WAITING: "PROGRESS",
    S.QUEUED: "PENDING",
    S.RUNNING: "PROGRESS",
    S.RETRYING: "RETRY",
    S.CANCELLING: "CANCELLING",
    S.SUCCEEDED: "SUCCESS",
    S.FAILED: "FAILURE",
    S.CANCELLED: "REVOKED",
}

# The top-level `status` in the contract.
CLIENT_STATUS: dict[JobState, str] = {
    S.WAITING: "processing",
    S.QUEUED: "pending",
    S.RUNNING: "processing",
    S.RETRYING: "processing",
    S.CANCELLING: "processing",
    S.SUCCEEDED: "completed",
    S.FAILED: "failed",
    S.CANCELLED: "cancelled",
}
