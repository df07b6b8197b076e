"""The commands that an operator manages users with: `flask --app app_v2 users …`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask.cli import AppGroup
from marshmallow import ValidationError

from backend.accounts import passwords, services
from backend.accounts.models import UserRole
from backend.accounts.schemas import RegisterSchema
from backend.db import db, transaction
from backend.errors import AppError
from backend.http.bodies import refuse_unstorable

users = AppGroup("users", help="Make, list and disable users.")


@users.command()
@click.option("--email", required=True)
@click.option("--name", default="")
@click.option("--admin", is_flag=True, help="Make an administrator.")
@click.option("--password", help="Seen by others on this machine; best left out, to be asked.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
def create(email: str, name: str, admin: bool, password: str | None, password_stdin: bool) -> None:
    """Make a user; prints the id and the email address."""
    sent = {"email": email, "name": name, "password": _password(password, password_stdin)}
    with _plain_errors():
        account = _checked(sent)
        password_hash = passwords.hash_password(account.pop("password"))
        role = UserRole.ADMIN if admin else UserRole.USER
        with transaction() as session:
            user = services.register(session, password_hash=password_hash, role=role, **account)
    click.echo(f"{user.id} {user.email}")


@users.command("list")
def list_() -> None:
    """List all users: id, email address, role, plan, and whether they may sign in."""
    for user in services.list_users(db.session()):
        state = "active" if user.is_active else "disabled"
        click.echo(f"{user.id} {user.email} {user.role} {user.plan} {state}")


@users.command()
@click.argument("email")
def disable(email: str) -> None:
    """Shut a user out: no log-in from now on, and all that there are end."""
    with _plain_errors(), transaction() as session:
        user = services.disable(session, email)
    click.echo(f"{user.id} {user.email} disabled")


def _password(given: str | None, from_stdin: bool) -> str:
    if given is not None and from_stdin:
        raise click.ClickException("Give --password or --password-stdin, not both.")
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if given is not None:
        return given
    asked: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return asked


def _checked(sent: dict[str, str]) -> dict[str, Any]:
    """Return an account's values, held to the same rules as a registration's."""
    refuse_unstorable(sent)
    account: dict[str, Any] = RegisterSchema().load(sent)
    return account


@contextmanager
def _plain_errors() -> Iterator[None]:
    """End the command with the error's sentence and exit code 1."""
    try:
        yield
    except ValidationError as error:
        reasons = [f"{name}: {' '.join(found)}" for name, found in error.messages_dict.items()]
        raise click.ClickException("\n".join(reasons)) from None
    except AppError as error:
        raise click.ClickException(error.detail) from None
