"""What operators do at the command line: `flask --app app_v2 jobs …`, `queues …`, and so on."""

import getpass
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import click
from flask.cli import AppGroup

from backend.db import db
from backend.errors import AppError
from backend.jobs import acts, orders, overview, pauses, queries
from backend.jobs.acts import Actor
from backend.jobs.kinds import Queue
from backend.jobs.models import Act, Job, Pause, PauseScope
from backend.jobs.orders import Action, Order
from backend.jobs.schemas import STATE_NAMES, STATES_BY_CLIENT_NAME, message_of

F = TypeVar("F", bound=Callable[..., Any])

QUEUE = click.Choice([queue.value for queue in Queue])
LOOK_SECONDS = 0.5
REASON = click.option("--reason", default="", help="What those who wait are told.")

jobs = AppGroup("jobs", help="See all jobs, and cancel, retry, discard or hurry those that match.")
queues = AppGroup("queues", help="See, pause and resume the queues.")
kinds = AppGroup("kinds", help="See, pause and resume the kinds of job.")
workers = AppGroup("workers", help="See the workers, drain them, and have them claim again.")


class Time(click.ParamType[datetime]):
    """A time as ISO 8601 has it; without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime:
        """Read it."""
        try:
            read = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time; it would read like 2026-11-25T13:00.", param, ctx)
        return read if read.tzinfo else read.replace(tzinfo=UTC)


def matching(command: F) -> F:
    """The options that say which jobs."""
    for option in (
        click.option("--id", "ids", type=click.UUID, multiple=True, help="May be given again."),
        click.option("--state", type=click.Choice([str(name) for name in STATE_NAMES])),
        click.option("--kind"),
        click.option("--queue", type=QUEUE),
        click.option("--owner", help="The owner's email address."),
        click.option("--label", help="A part of the label."),
        click.option("--since", type=Time(), help="Made at this time or later."),
        click.option("--before", type=Time(), help="Made before this time."),
        click.option("--parent", type=click.UUID, help="The batch whose children they are."),
    ):
        command = option(command)
    return command


def acting(command: F) -> F:
    """The options of a command that acts on all jobs that match."""
    dry = click.option("--dry-run", is_flag=True, help="Only tell how many would be touched.")
    every = click.option("--all", "every", is_flag=True, help="Needed where nothing else is said.")
    return matching(dry(every(command)))


# ---------------------------------------------------------------- jobs


@jobs.command("list")
@matching
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
@click.option("--cursor", help="Where a list before said that it goes on.")
def list_jobs(limit: int, cursor: str | None, **which: Any) -> None:
    """List everybody's jobs, the newest first."""
    with plain_errors():
        page = overview.jobs_page(db.session(), wanted(**which), cursor, limit)
    for job, owner in page.items:
        made = f"{job.created_at:%Y-%m-%d %H:%M:%S}"
        what = f"{job.kind} {job.queue} {job.priority} {owner or '-'} {job.label}"
        click.echo(f"{job.id} {made} {job.state:10} {what}".rstrip())
    if not page.items:
        click.echo("No job matches.")
    if page.next_cursor:
        click.echo(f"There are more: --cursor {page.next_cursor}")


@jobs.command()
@click.argument("job_id", type=click.UUID)
def why(job_id: UUID) -> None:
    """Say what a job does, or why it waits."""
    job = db.session.get(Job, job_id)
    if job is None:
        raise click.ClickException(f"There is no job {job_id}.")
    waiting = queries.why_waiting(db.session(), job)
    click.echo(f"{job.state}: {waiting.message if waiting else message_of(job)}")


@jobs.command()
@acting
@click.option("--force", is_flag=True, help="Kill them at once.")
def cancel(force: bool, **which: Any) -> None:
    """Ask all jobs that match to stop."""
    carry_out(Action.CANCEL, force=force, **which)


@jobs.command()
@acting
def retry(**which: Any) -> None:
    """Try all jobs that match and failed or were cancelled again; of a batch, what failed."""
    carry_out(Action.RETRY, **which)


@jobs.command()
@acting
def discard(**which: Any) -> None:
    """Delete all jobs that match and have ended, with their logs and artifacts."""
    carry_out(Action.DISCARD, **which)


@jobs.command("run-now")
@acting
def run_now(**which: Any) -> None:
    """Have all jobs that match and wait for their time run now."""
    carry_out(Action.RUN_NOW, **which)


@jobs.command()
@acting
@click.argument("value", type=click.IntRange(orders.PRIORITIES.start, orders.PRIORITIES.stop - 1))
def priority(value: int, **which: Any) -> None:
    """Change the priority of all jobs that match and wait; 10 is the most urgent."""
    carry_out(Action.PRIORITY, priority=value, **which)


@jobs.command("acts")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True)
def list_acts(limit: int) -> None:
    """List who did what, the newest first."""
    for act in acts.page(db.session(), None, limit).items:
        said = {**(act.filter or {}), **(act.options or {})}
        what = " ".join([act.target, *(f"{name}={value}" for name, value in said.items())]).strip()
        state = f"{act.finished_at:%H:%M:%S}" if act.finished_at else "unfinished"
        when = f"{act.started_at:%Y-%m-%d %H:%M:%S} to {state}"
        click.echo(f"{when} {act.by} {act.action} [{what}] {act.done} of {act.matched}")


def wanted(
    *,
    ids: Sequence[UUID],
    state: str | None,
    kind: str | None,
    queue: str | None,
    owner: str | None,
    label: str | None,
    since: datetime | None,
    before: datetime | None,
    parent: UUID | None,
) -> queries.Filter:
    """The filter that the options describe; NotFound for a kind or an owner that there is not."""
    if kind is not None:
        pauses.check_name(db.session(), PauseScope.KIND, kind)
    return queries.Filter(
        ids=list(ids) or None,
        state=STATES_BY_CLIENT_NAME.get(state, [state]) if state else None,
        kind=kind,
        queue=queue,
        owner_id=overview.owner_id_of(db.session(), owner) if owner else None,
        q=label,
        since=since,
        before=before,
        parent_id=parent,
    )


def carry_out(
    action: Action,
    *,
    dry_run: bool,
    every: bool,
    force: bool = False,
    priority: int | None = None,
    **which: Any,
) -> None:
    """Act on all jobs that the options describe, to the end."""
    if not every and not any(which.values()):
        raise click.UsageError("Say which jobs, or --all.")
    with plain_errors():
        order = Order(action=action, wanted=wanted(**which), force=force, priority=priority)
        if dry_run:
            click.echo(orders.would(order, orders.count(order)))
        else:
            # To the end: if this is interrupted, the steward goes on.
            tell(acts.carry_out(operator(), order, seconds=None))


# ---------------------------------------------------------------- queues, kinds, workers


@queues.command("list")
def list_queues() -> None:
    """Show each queue: what waits and for how long, its slots, and whether it is paused."""
    for queue in overview.queues():
        waits = f"{queue.ready} ready (oldest {queue.oldest_wait_seconds:.0f} s)"
        rest = f"{queue.later} later  {queue.running} running"
        click.echo(f"{queue.name:15} {queue.slots:3} slots  {told(queue.pause)}  {waits}  {rest}")


@queues.command("pause")
@click.argument("queue", type=QUEUE)
@REASON
def pause_queue(queue: str, reason: str) -> None:
    """Claim nothing from a queue until it is resumed; what runs goes on."""
    pauses.pause(operator(), PauseScope.QUEUE, queue, reason)
    click.echo(f"{queue} is paused.")


@queues.command("resume")
@click.argument("queue", type=QUEUE)
def resume_queue(queue: str) -> None:
    """Open a paused queue again; the steward rings for what waited."""
    pauses.resume(operator(), PauseScope.QUEUE, queue)
    click.echo(f"{queue} is open.")


@kinds.command("list")
def list_kinds() -> None:
    """Show each kind, how many jobs of it are in which state, and whether it is paused."""
    for kind in overview.kinds_list():
        states = "  ".join(f"{count} {state}" for state, count in sorted(kind.states.items()))
        unknown = "" if kind.queue else "  (not in this version)"
        click.echo(f"{kind.name:30} {told(kind.pause)}  {states}{unknown}".rstrip())


@kinds.command("pause")
@click.argument("kind")
@REASON
def pause_kind(kind: str, reason: str) -> None:
    """Claim no job of a kind until it is resumed; what runs goes on."""
    with plain_errors():
        pauses.pause(operator(), PauseScope.KIND, kind, reason)
    click.echo(f"{kind} is paused.")


@kinds.command("resume")
@click.argument("kind")
def resume_kind(kind: str) -> None:
    """Claim jobs of a paused kind again."""
    with plain_errors():
        pauses.resume(operator(), PauseScope.KIND, kind)
    click.echo(f"{kind} is open.")


@workers.command("list")
def list_workers() -> None:
    """Show each worker, what its slots run, and whether it is drained."""
    found = overview.workers_list()
    for worker in found:
        queues_served = ",".join(worker.queues) or "-"
        state = "here" if worker.is_alive else "not seen lately"
        drained = f"  {drain_state(worker)}" if worker.pause else ""
        busy = f"{worker.busy} of {worker.slots} slots busy"
        click.echo(f"{worker.name:25} {queues_served}  {state}  {busy}{drained}")
        for row in worker.running:
            click.echo(f"    {row.worker}  {row.id}  {row.kind}  {row.state}  {row.label}".rstrip())
    if not found:
        click.echo("No worker has reported.")


@workers.command()
@click.argument("worker")
@REASON
@click.option("--wait", is_flag=True, help="Until the last of its slots is free.")
def drain(worker: str, reason: str, wait: bool) -> None:
    """Have a worker claim nothing more; what it runs goes on."""
    with plain_errors():
        pauses.pause(operator(), PauseScope.WORKER, worker, reason)
    while True:
        view = next(one for one in overview.workers_list() if one.name == worker)
        if view.is_free or not wait:
            break
        time.sleep(LOOK_SECONDS)
    click.echo(f"{worker} is {drain_state(view)}.")


@workers.command()
@click.argument("worker")
def undrain(worker: str) -> None:
    """Have a drained worker claim again."""
    with plain_errors():
        pauses.resume(operator(), PauseScope.WORKER, worker)
    click.echo(f"{worker} claims again.")


def drain_state(worker: overview.WorkerView) -> str:
    """How far a drained worker is."""
    if worker.is_free:
        return "drained and free"
    return f"drained, and still runs {worker.busy} jobs" if worker.pause else "not drained"


def told(pause: Pause | None) -> str:
    """Whether something is paused."""
    if pause is None:
        return "open"
    by = f" by {pause.paused_by}" if pause.paused_by else ""
    why = f" ({pause.reason})" if pause.reason else ""
    return f"paused since {pause.paused_at:%Y-%m-%d %H:%M} UTC{by}{why}"


def tell(act: Act) -> None:
    """Say what came of an act."""
    click.echo(acts.sentence(act))


def operator() -> Actor:
    """Whoever types, as the machine knows them."""
    return Actor(by=getpass.getuser()[:254], via="command")


@contextmanager
def plain_errors() -> Iterator[None]:
    """End the command with the error's sentence and exit code 1."""
    try:
        yield
    except AppError as error:
        raise click.ClickException(error.detail) from None
