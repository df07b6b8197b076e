"""`flask --app app_v2 jobs doctor`, beside the job core's own commands."""

import json

import click

from backend.jobs.commands import jobs
from backend.ops import doctor as doctor_

__all__ = ["jobs"]


@jobs.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Compare ledger, broker, workers, storage and schedules; exit with 1 if something is wrong."""
    findings = doctor_.examine()
    if as_json:
        click.echo(json.dumps(doctor_.as_json(findings), indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.problem}\n    {finding.advice}")
        if not findings:
            click.echo("Nothing is wrong.")
    ctx.exit(1 if findings else 0)
