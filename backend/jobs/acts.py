"""The record of what was done, and acts on many jobs: carried out now, finished by the steward."""

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from backend.db import AWAY, db, db_now, transaction
from backend.errors import NotFound
from backend.http.pagination import Page, page_of
from backend.jobs import ledger, orders, queries
from backend.jobs.models import IS_UNFINISHED, Act, Job
from backend.jobs.orders import Order
from backend.jobs.sweeps import LEASE_SECONDS, Sweep

REQUEST_SECONDS = 4.0  # for which a request works on an act; the rest is the steward's
STEWARD_SECONDS = 1.0  # for which the steward does, before its other duties


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts: a user over HTTP, or somebody at the machine's command line."""

    by: str
    via: str  # "http" or "command"
    user_id: int | None = None


def carry_out(actor: Actor, order: Order, *, seconds: float | None = REQUEST_SECONDS) -> Act:
    """Do something to all jobs that a filter matches, for so many seconds, or to the end.

    What is not done by then, the steward does. Jobs that are submitted meanwhile are not touched.
    """
    begun = time.monotonic()
    matched = orders.count(order)
    newest = db.session.scalars(select(Job.id).order_by(Job.id.desc()).limit(1)).first()
    with transaction() as session:
        act = Act(
            action=order.action,
            filter=order.wanted.as_json(),
            options=order.options,
            by=actor.by,
            via=actor.via,
            user_id=actor.user_id,
            started_at=session.scalars(select(db_now())).one(),
            matched=matched,
            done=0,
            bound=newest,
            token=uuid4(),
            lease_expires_at=db_now(LEASE_SECONDS),
        )
        session.add(act)
        session.flush()
    with suppress(*AWAY):  # the act is kept, and the steward goes on with it
        Sweep(act).work(None if seconds is None else begun + seconds - time.monotonic())
    return find(act.id)


def record(
    session: Session, actor: Actor, action: str, target: str, *, done: int, **options: Any
) -> Act:
    """Keep an act that is done in the caller's transaction."""
    act = Act(
        action=action,
        target=target,
        options={name: value for name, value in options.items() if value},
        by=actor.by,
        via=actor.via,
        user_id=actor.user_id,
        started_at=db_now(),
        finished_at=db_now(),
        matched=1,
        done=done,
    )
    session.add(act)
    session.flush()
    return act


def finish_some() -> int:
    """Go on for a while with an act whose maker stopped or died; return how many jobs that did."""
    free = or_(Act.lease_expires_at.is_(None), Act.lease_expires_at < db_now())
    left = select(Act.id).where(IS_UNFINISHED, free).order_by(Act.id).limit(1)
    act_id = db.session.scalars(left).first()
    db.session.commit()
    if act_id is None:
        return 0
    with transaction() as session:
        act = session.scalars(
            update(Act)
            .where(Act.id == act_id, IS_UNFINISHED, free)
            .values(token=uuid4(), lease_expires_at=db_now(LEASE_SECONDS))
            .returning(Act)
            .execution_options(**ledger.AS_WRITTEN)
        ).one_or_none()
    if act is None:
        return 0
    before = act.done
    Sweep(act).work(STEWARD_SECONDS)
    return find(act_id).done - before


def find(act_id: UUID) -> Act:
    """An act as it is now; NotFound for an unknown id."""
    db.session.commit()
    act = db.session.get(Act, act_id, populate_existing=True)
    if act is None:
        raise NotFound(f"There is no act {act_id}.")
    return act


def page(session: Session, cursor: str | None, limit: int) -> Page[Act]:
    """A page of what was done, the newest first."""
    query = select(Act).order_by(Act.id.desc()).limit(limit + 1)
    if cursor:
        query = query.where(Act.id < queries.id_of(cursor))
    rows = session.scalars(query.execution_options(populate_existing=True)).all()
    return page_of(rows, limit, lambda act: [act.id.hex])


def sentence(act: Act) -> str:
    """What came of an act, for a person."""
    if act.target:
        if act.done:
            return f"{act.target}: done ({act.action.replace('_', ' ')})."
        return f"{act.target}: nothing was changed; it was so already."
    if not act.matched:
        return f"No job matches that could be changed by {act.action.replace('_', ' ')}."
    told = f"{act.done} of {act.matched} jobs: {act.action.replace('_', ' ')}."
    if act.finished_at is None:
        return f"{told} The rest is being done; see act {act.id}."
    return told if act.done == act.matched else f"{told} The others had changed by then."
