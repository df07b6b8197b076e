"""What holds in every ledger, whatever happened to the jobs in it."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.jobs.models import Attempt, Job, JobEvent, LogLine
from backend.jobs.states import ENDED, LEASED, MOVES, JobState


def broken(session: Session) -> list[str]:
    """Every rule that the ledger breaks, as a sentence; an empty list is a sound ledger.

    Jobs without events were put there by a test and are passed over.
    """
    jobs = {job.id: job for job in session.scalars(select(Job))}
    events: dict[UUID, list[JobState]] = defaultdict(list)
    for event in session.scalars(select(JobEvent).order_by(JobEvent.id)):
        events[event.job_id].append(JobState(event.state))
    attempts: dict[UUID, list[Attempt]] = defaultdict(list)
    for attempt in session.scalars(select(Attempt).order_by(Attempt.number)):
        attempts[attempt.job_id].append(attempt)
    active: dict[UUID, list[Job]] = defaultdict(list)
    for job in jobs.values():
        if job.parent_id and not job.ended:
            active[job.parent_id].append(job)
    found = []
    for job_id, told in events.items():
        job = jobs[job_id]
        # That a child was queued goes without an event: there may be a hundred thousand of them.
        states = [JobState.QUEUED, *told] if job.parent_id else told
        what = f"{job.kind} {job.label or job.id}, {' > '.join(states)}"
        rules = [*_moves(states), *_row(job, states[-1]), *_attempts(job, attempts[job_id])]
        found += [f"{what}: {rule}" for rule in rules]
        if job.ended:
            children = active.get(job.id, [])
            found += [f"{what}: has ended before its child {one.label}" for one in children]
    return found


def _moves(states: list[JobState]) -> Iterator[str]:
    if states[0] not in {JobState.QUEUED, JobState.WAITING}:
        yield f"begins as {states[0]}"
    for before, after in pairwise(states):
        if after not in MOVES[before]:
            yield f"{before} > {after} is no move"


def _row(job: Job, last: JobState) -> Iterator[str]:
    if job.state != last:
        yield f"the row says {job.state}"
    if (job.state in ENDED) != (job.ended_at is not None):
        yield f"ended_at is {job.ended_at}"
    if job.state in ENDED and job.lease_expires_at is not None:
        yield "has ended and holds a lease"
    if job.state not in LEASED and job.token is not None:
        yield f"is {job.state}, and somebody may still write under its token"
    if (job.percent == 100) != (job.state == JobState.SUCCEEDED):
        yield f"{job.state} at {job.percent} percent"


def _attempts(job: Job, attempts: list[Attempt]) -> Iterator[str]:
    numbers = [attempt.number for attempt in attempts]
    if numbers != list(range(1, job.attempt + 1)):
        yield f"{job.attempt} claims, attempts {numbers}"
    runs = [attempt.number for attempt in attempts if attempt.ended_at is None]
    leased = job.state in LEASED and job.lease_expires_at is not None
    if runs != ([job.attempt] if leased else []):
        yield f"attempts {runs} have not ended"


def wrong_effects(session: Session, whole: str, step: str) -> list[str]:
    """Every effect that is missing or there too often, as a sentence.

    The effect of the whole, a log line `whole`, is there as often as the job has succeeded; that
    of a step, a log line that begins with `step`, once. Jobs that never leave one are passed over.
    """
    ends = Counter(
        session.scalars(select(JobEvent.job_id).where(JobEvent.state == JobState.SUCCEEDED))
    )
    lines = select(LogLine.job_id, LogLine.message)
    effects = Counter((job_id, said) for job_id, said in session.execute(lines))
    probes = select(Job.id).where(Job.kind.startswith("probe."))
    found = [
        f"{job_id} has succeeded {ends[job_id]} times, with {effects[job_id, whole]} effects"
        for job_id in session.scalars(probes)
        if ends[job_id] != effects[job_id, whole]
    ]
    return found + [
        f"{job_id} has {count} times {said}"
        for (job_id, said), count in effects.items()
        if said.startswith(step) and count != 1
    ]
