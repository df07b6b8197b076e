"""`flask --app app_v2 queues …`: pause and resume queues."""

import click
from flask.cli import with_appcontext

from backend.db import db, db_now, transaction
from backend.jobs.kinds import Queue
from backend.jobs.models import Pause, PauseScope
from backend.jobs.workers import slots_of

QUEUE = click.Choice([queue.value for queue in Queue])


@click.group()
def queues() -> None:
    """See, pause and resume the queues."""


@queues.command("list")
@with_appcontext
def list_queues() -> None:
    """Show each queue, its slots, and whether it is paused."""
    for queue in Queue:
        pause = db.session.get(Pause, (PauseScope.QUEUE, queue.value))
        state = f"paused since {pause.paused_at:%Y-%m-%d %H:%M} UTC" if pause else "open"
        click.echo(f"{queue.value:15} {slots_of(queue):3} slots  {state}")


@queues.command()
@click.argument("queue", type=QUEUE)
@click.option("--reason", default="", help="What those who wait are told.")
@with_appcontext
def pause(queue: str, reason: str) -> None:
    """Claim nothing from a queue until it is resumed; what runs goes on."""
    with transaction() as session:
        if session.get(Pause, (PauseScope.QUEUE, queue)) is None:
            session.add(
                Pause(scope=PauseScope.QUEUE, name=queue, paused_at=db_now(), reason=reason)
            )
    click.echo(f"{queue} is paused.")


@queues.command()
@click.argument("queue", type=QUEUE)
@with_appcontext
def resume(queue: str) -> None:
    """Open a paused queue again; the steward rings for what waited."""
    with transaction() as session:
        found = session.get(Pause, (PauseScope.QUEUE, queue))
        if found is not None:
            session.delete(found)
    click.echo(f"{queue} is open.")
