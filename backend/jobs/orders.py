"""What can be done to all jobs that a filter matches."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from flask import current_app
from sqlalchemy import ColumnElement, and_, exists, false, func, or_, select
from sqlalchemy.orm import aliased

from backend.db import db, db_now
from backend.jobs import batches, ledger
from backend.jobs.kinds import Kinds
from backend.jobs.models import IS_ACTIVE, Act, Job
from backend.jobs.queries import Filter
from backend.jobs.states import ENDED, READY, JobState

PRIORITIES = range(11)


class Action(StrEnum):
    """What is done to each of the jobs."""

    CANCEL = "cancel"
    RETRY = "retry"
    DISCARD = "discard"
    RUN_NOW = "run_now"
    PRIORITY = "priority"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be done, and to which jobs."""

    action: Action
    wanted: Filter
    force: bool = False  # of a cancel: kill
    priority: int | None = None  # of a change of priority

    @property
    def options(self) -> dict[str, Any]:
        """What else is remembered of it."""
        if self.action is Action.PRIORITY:
            return {"priority": self.priority}
        return {"terminate": True} if self.force else {}

    @classmethod
    def of(cls, act: Act) -> "Order":
        """The order that an act carries out."""
        options = act.options or {}
        return cls(
            action=Action(act.action),
            wanted=Filter.from_json(act.filter or {}),
            force=options.get("terminate", False),
            priority=options.get("priority"),
        )

    def conditions(self) -> list[ColumnElement[bool]]:
        """What a job must be: as the filter says, and such that the action changes something."""
        return [*self.wanted.conditions(), self.applies()]

    def applies(self) -> ColumnElement[bool]:
        """Whether the action changes anything about a job."""
        match self.action:
            case Action.CANCEL:
                unforced = ~Job.cancel_force if self.force else false()
                return and_(IS_ACTIVE, or_(Job.cancel_requested_at.is_(None), unforced))
            case Action.RETRY:
                child = aliased(Job)
                failed = exists().where(child.parent_id == Job.id, child.state.in_(batches.AGAIN))
                of_batch = and_(Job.items_total.is_not(None), Job.state.in_(ENDED), failed)
                known = Job.kind.in_([*kinds()])
                return and_(known, or_(Job.state.in_(batches.AGAIN), of_batch))
            case Action.DISCARD:
                return ledger.IS_REMOVABLE
            case Action.RUN_NOW:
                # Not as IS_READY: by its index SQLite would look through all that are.
                return and_(Job.state.in_(READY), Job.run_at > db_now())
            case Action.PRIORITY:
                waits = Job.state.in_([JobState.QUEUED, JobState.RETRYING, JobState.WAITING])
                return and_(waits, Job.priority != self.priority)


def kinds() -> Kinds:
    """The kinds of the application at hand."""
    found: Kinds = current_app.extensions["sluice.kinds"]
    return found


def count(order: Order) -> int:
    """How many jobs an order would touch."""
    matched = select(func.count()).select_from(Job).where(*order.conditions())
    found = db.session.scalar(matched) or 0
    db.session.commit()
    return found


def would(order: Order, matched: int) -> str:
    """What an order would do, for a person."""
    what = order.action.value.replace("_", " ")
    if not matched:
        return f"No job matches that could be changed by {what}."
    return f"{matched} jobs would be touched by {what}; nothing was changed."
