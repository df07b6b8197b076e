"""Going through all jobs that an order names, in slices that hold up nobody.

The jobs go in the order of their ids. Each transaction moves some of them and says in the act's
own row how far that is, so that whoever goes on after a crash neither misses one nor takes one
twice. What ends after the act began is not the act's: it is not tried again a second time.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Result, Row, case, delete, select, update
from sqlalchemy.orm import Session

from backend.db import db, db_now, transaction
from backend.errors import Conflict
from backend.jobs import actions, batches, ledger
from backend.jobs.models import Act, Job
from backend.jobs.orders import Action, Order, kinds
from backend.jobs.signals import ring
from backend.jobs.states import ENDED, JobState

LEASE_SECONDS = 30.0  # for which an act is its holder's without a sign of life
SLICE_SECONDS = 0.15  # what a transaction should take
FIRST_SLICE, SMALLEST_SLICE, LARGEST_SLICE = 500, 50, 5000
MANY = 50_000  # so many matches are looked for by walking through all jobs
WINDOW = 10_000  # jobs that one look of such a walk passes
MOST_PARENTS = 20  # that are told of a slice's children at once; the steward tells the others
BEFORE_ALL = UUID(int=0)

Found = Row[Any]  # id, parent_id, items_total
Written = Mapping[str, Any]  # values of an act's columns, and how many jobs were `done`


class TakenOver(Exception):
    """Another works on the act by now, so nothing of this is written."""


class Sweep:
    """The work on an act, by the one whose token it bears."""

    def __init__(self, act: Act) -> None:
        self._act_id, self._token, self._by = act.id, act.token, act.user_id
        self._order = Order.of(act)
        self._conditions = self._order.conditions()
        if self._order.action in {Action.RETRY, Action.DISCARD}:
            self._conditions.append(Job.ended_at <= act.started_at)
        self._started_at = act.started_at
        self._dense = act.matched > MANY
        self._bound = act.bound or BEFORE_ALL
        self._position = act.position or BEFORE_ALL
        self._batch_id = act.batch_id
        self._done = act.done
        self._size = FIRST_SLICE
        self._until = float("inf")

    def work(self, seconds: float | None) -> None:
        """Go on until all is done, the time is over, or another has taken the act over."""
        if seconds is not None:
            self._until = time.monotonic() + seconds
        with suppress(TakenOver):
            while not self._is_late():
                if self._batch_id is not None:
                    self._timed(self._go_on_with_batch)
                elif self._position < self._bound:
                    self._slice()
                else:
                    self._write(finished_at=db_now(), token=None, lease_expires_at=None)
                    return
            self._write(position=self._position, token=None, lease_expires_at=None)

    def _is_late(self) -> bool:
        return time.monotonic() > self._until

    # ------------------------------------------------------------ slices

    def _slice(self) -> None:
        """Do the next jobs that match, in one transaction or in several."""
        end = self._end_of_look()
        size = self._size
        query = (
            select(Job.id, Job.parent_id, Job.items_total)
            .where(Job.id > self._position, Job.id <= end, *self._conditions)
            .order_by(Job.id)
            .limit(size)
        )
        found: Result[Any] = db.session.execute(query)
        rows = found.all()
        db.session.commit()
        for run in self._runs(rows):
            if self._batch_id is not None or self._is_late():
                return
            self._timed(lambda: self._move(run))  # noqa: B023 - called at once
        if self._batch_id is None and len(rows) < size:
            self._position = end

    def _end_of_look(self) -> UUID:
        """Up to where to look for the next jobs.

        To find a few among many, a database takes an index and sorts what it finds, at each look
        all of it. To find many, walking through all jobs is faster, a part at a time.
        """
        if not self._dense:
            return self._bound
        window = (
            select(Job.id)
            .where(Job.id > self._position, Job.id <= self._bound)
            .order_by(Job.id)
            .offset(WINDOW - 1)
            .limit(1)
        )
        return db.session.scalars(window).first() or self._bound

    def _runs(self, rows: Sequence[Found]) -> Iterator[Sequence[Found]]:
        """Cut a slice into what goes in one transaction."""
        if self._order.action is Action.RETRY:
            # A batch and its children move under the batch's lock.
            for _, run in groupby(rows, key=_batch_of):
                yield [*run]
        elif self._order.action is Action.DISCARD:
            yield from _by_weight(rows, self._size)
        elif rows:
            yield rows

    def _timed(self, work: Callable[[], None]) -> None:
        """Do it, and make the next slice as large as this one's speed allows."""
        begun = time.monotonic()
        work()
        took = time.monotonic() - begun
        wanted = self._size * min(2.0, SLICE_SECONDS / max(took, 0.001))
        self._size = int(max(SMALLEST_SLICE, min(LARGEST_SLICE, wanted)))

    def _move(self, run: Sequence[Found]) -> None:
        match self._order.action:
            case Action.CANCEL:
                self._cancel(run)
            case Action.RETRY:
                self._retry(run)
            case Action.DISCARD:
                self._discard(run)
            case Action.RUN_NOW | Action.PRIORITY:
                self._change(run)

    def _write(self, do: Callable[[Session], Written] | None = None, **also: Any) -> None:
        """Do something in a transaction that also says in the act's row how far it is.

        Raises TakenOver, and nothing was done, if the act is another's by now.
        """
        with transaction() as session:
            written = {**(do(session) if do else {}), **also}
            done = written.pop("done", 0)
            mine = update(Act).where(Act.id == self._act_id, Act.token == self._token)
            values = {"lease_expires_at": db_now(LEASE_SECONDS), **written}
            held = session.execute(mine.values(done=Act.done + done, **values).returning(Act.id))
            if held.one_or_none() is None:
                raise TakenOver
        self._done += done
        self._position = written.get("position", self._position)
        self._batch_id = written.get("batch_id", self._batch_id)

    def _chosen(self, run: Sequence[Found]) -> list[ColumnElement[bool]]:
        """The jobs of a run that still match: others may have moved since they were read."""
        return [Job.id.in_([row.id for row in run]), self._order.applies()]

    # ------------------------------------------------------------ cancel, run now, priority

    def _cancel(self, run: Sequence[Found]) -> None:
        parents: set[UUID] = set()

        def stop(session: Session) -> Written:
            request = ledger.stop_request(self._by, self._order.force)
            moved = ledger.move_all(session, *self._chosen(run), **request)
            parents.update(job.parent_id for job in moved if job.parent_id)
            return {"done": len(moved), "position": run[-1].id}

        self._write(stop)
        for parent_id in sorted(parents)[:MOST_PARENTS]:
            actions.tell_parent(parent_id)
        while not self._is_late() and batches.stop_children(self._size):
            pass

    def _change(self, run: Sequence[Found]) -> None:
        def change(session: Session) -> Written:
            if self._order.action is Action.RUN_NOW:
                values: dict[str, Any] = {"run_at": db_now(), "turn_at": db_now()}
            else:
                values = {"priority": self._order.priority}
            changed = ledger.change_all(session, *self._chosen(run), **values)
            if self._order.action is Action.RUN_NOW:
                _ring_for(session, changed)
            return {"done": len(changed), "position": run[-1].id}

        self._write(change)

    # ------------------------------------------------------------ retry

    def _retry(self, run: Sequence[Found]) -> None:
        batch_id = _batch_of(run[0])
        if batch_id is None:
            self._write(lambda session: self._retry_singles(session, run))
        elif batch_id == run[0].id:
            self._write(lambda session: self._retry_batch(session, batch_id))
        else:
            chosen = Job.id.in_([row.id for row in run])
            self._write(
                lambda session: {
                    "done": self._retry_children(session, batch_id, chosen),
                    "position": run[-1].id,
                }
            )

    def _retry_singles(self, session: Session, run: Sequence[Found]) -> Written:
        attempts = {name: kind.retry.attempts for name, kind in kinds().items()}
        moved = ledger.move_all(
            session,
            *self._chosen(run),
            to=JobState.QUEUED,
            max_attempts=Job.attempt - Job.uncharged + case(attempts, value=Job.kind),
            run_at=db_now(),
            # Behind one another, so that others' jobs are not behind all of them.
            turn_at=db_now(float(self._done)),
            **ledger.FRESH,
        )
        _ring_for(session, moved)
        return {"done": len(moved), "position": run[-1].id}

    def _retry_batch(self, session: Session, batch_id: UUID) -> Written:
        """Try a batch again: what failed of it, the first part at once, or its closing step."""
        failed = self._failed_of(session, batch_id)
        if failed:
            moved = self._retry_children(session, batch_id, Job.id.in_(failed))
            more = batch_id if moved and len(failed) == self._size else None
            return {"done": int(bool(moved)), "position": batch_id, "batch_id": more}
        batch = session.get(Job, batch_id, populate_existing=True)
        try:
            if batch is not None:
                ledger.retry(session, batch, actions.kind_of(batch))
        except Conflict:
            batch = None
        return {"done": int(batch is not None), "position": batch_id}

    def _failed_of(self, session: Session, batch_id: UUID) -> Sequence[UUID]:
        failed = select(Job.id).where(
            Job.parent_id == batch_id,
            Job.state.in_(batches.AGAIN),
            Job.ended_at <= self._started_at,
        )
        return session.scalars(failed.order_by(Job.id).limit(self._size)).all()

    def _retry_children(self, session: Session, batch_id: UUID, chosen: ColumnElement[bool]) -> int:
        """Try children of a batch again, which waits for them; 0 if it cannot do so just now."""
        batch = session.get(Job, batch_id, populate_existing=True)
        child = session.scalars(select(Job).where(Job.parent_id == batch_id).limit(1)).first()
        if batch is None or child is None:
            return 0
        try:
            each = actions.kind_of(child)
            batches.wait_again(session, batch, actions.kind_of(batch))
        except Conflict:
            return 0
        of_batch = Job.parent_id == batch_id
        return batches.retry_children(session, each, of_batch, chosen)

    # ------------------------------------------------------------ discard

    def _discard(self, run: Sequence[Found]) -> None:
        ids = [row.id for row in run]
        if len(run) > 1 or _weight(run[0]) <= self._size:
            self._write(
                lambda session: {"done": ledger.remove_all(session, ids), "position": ids[-1]}
            )
        else:
            self._write(lambda session: self._disown(session, ids[0]))

    def _disown(self, session: Session, batch_id: UUID) -> Written:
        """Take a large batch from its owner, so that nobody meets a part of it."""
        disowned = update(Job).where(Job.id == batch_id, Job.state.in_(ENDED))
        gone = session.execute(disowned.values(owner_id=None).returning(Job.id)).one_or_none()
        return {"position": batch_id, "batch_id": batch_id if gone else None}

    def _go_on_with_batch(self) -> None:
        """Do the next part of the batch that the act is in the middle of."""
        batch_id = self._batch_id
        if batch_id is None:
            return
        if self._order.action is Action.RETRY:
            self._write(lambda session: self._retry_more(session, batch_id))
        else:
            self._write(lambda session: self._discard_more(session, batch_id))

    def _retry_more(self, session: Session, batch_id: UUID) -> Written:
        failed = self._failed_of(session, batch_id)
        moved = self._retry_children(session, batch_id, Job.id.in_(failed)) if failed else 0
        return {"batch_id": batch_id if moved else None}

    def _discard_more(self, session: Session, batch_id: UUID) -> Written:
        children = select(Job.id).where(Job.parent_id == batch_id, Job.state.in_(ENDED))
        ids = session.scalars(children.limit(self._size)).all()
        if ids:
            session.execute(delete(Job).where(Job.id.in_(ids)))
            return {}
        return {"done": ledger.remove_all(session, [batch_id]), "batch_id": None}


def _batch_of(row: Found) -> UUID | None:
    """The batch under whose lock a job moves: its parent, or itself."""
    batch_id: UUID | None = row.parent_id or (row.id if row.items_total is not None else None)
    return batch_id


def _weight(row: Found) -> int:
    """How many rows go with a job."""
    return 1 + (0 if row.parent_id else row.items_total or 0)


def _by_weight(rows: Sequence[Found], most: int) -> Iterator[Sequence[Found]]:
    """Cut jobs into runs that weigh no more than so much, or are of one."""
    run: list[Found] = []
    for row in rows:
        if run and sum(map(_weight, [*run, row])) > most:
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _ring_for(session: Session, moved: Sequence[Row[Any]]) -> None:
    """Ring for jobs that are ready, as many as wake somebody new."""
    for queue in {job.queue for job in moved}:
        ids = [job.id for job in moved if job.queue == queue]
        ring(session, queue, ids[: batches.RINGS_AT_ONCE])
