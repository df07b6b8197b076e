"""Pausing and resuming queues and kinds, draining workers: durable, and seen by every claim."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import db, db_now, transaction
from backend.errors import NotFound
from backend.jobs import acts
from backend.jobs.acts import Actor
from backend.jobs.kinds import Queue
from backend.jobs.models import Act, Job, Pause, PauseScope, Worker
from backend.jobs.orders import kinds

# What it is called to pause each, and to end that.
WORDS = {
    PauseScope.QUEUE: ("pause_queue", "resume_queue"),
    PauseScope.KIND: ("pause_kind", "resume_kind"),
    PauseScope.WORKER: ("drain", "undrain"),
}


def pause(actor: Actor, scope: PauseScope, name: str, reason: str = "") -> Act:
    """Have nothing claimed of a queue, of a kind, or by a worker; what runs goes on.

    Raises NotFound, with the names that there are, for any other. To pause again changes
    nothing: the act then says that none was done.
    """
    with transaction() as session:
        check_name(session, scope, name)
        new = session.get(Pause, (scope, name)) is None
        if new:
            session.add(
                Pause(scope=scope, name=name, paused_at=db_now(), paused_by=actor.by, reason=reason)
            )
        return acts.record(session, actor, WORDS[scope][0], name, done=int(new), reason=reason)


def resume(actor: Actor, scope: PauseScope, name: str) -> Act:
    """End a pause; the steward rings for what waited. Raises NotFound as `pause` does."""
    with transaction() as session:
        check_name(session, scope, name)
        found = session.get(Pause, (scope, name))
        if found is not None:
            session.delete(found)
        return acts.record(session, actor, WORDS[scope][1], name, done=int(found is not None))


def check_name(session: Session, scope: PauseScope, name: str) -> None:
    """Refuse the name of something that there is not, and say which there are."""
    known = _names(session, scope)
    if name not in known and not (scope is PauseScope.KIND and _has_jobs(session, name)):
        listed = ", ".join(sorted(known)) or "none just now"
        raise NotFound(
            f"There is no {scope.value} {name[:120]!r}; there are: {listed}.",
            code=f"{scope.value}_not_found",
        )


def _has_jobs(session: Session, kind: str) -> bool:
    """Whether there are jobs of a kind, which this version may no longer have."""
    return session.scalars(select(Job.id).where(Job.kind == kind).limit(1)).first() is not None


def _names(session: Session, scope: PauseScope) -> Collection[str]:
    paused = set(session.scalars(select(Pause.name).where(Pause.scope == scope)))
    if scope is PauseScope.QUEUE:
        return {queue.value for queue in Queue} | paused
    if scope is PauseScope.KIND:
        return {*kinds()} | paused
    return {*session.scalars(select(Worker.name))} | paused


def paused(scope: PauseScope) -> dict[str, Pause]:
    """The pauses of a scope, by name."""
    found = db.session.scalars(select(Pause).where(Pause.scope == scope))
    return {pause.name: pause for pause in found}
