"""The ledger's tables: `flask --app app_v2 db upgrade`, where there is something to do."""

import subprocess
import sys

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from backend.config import Settings
from sluice_stack import ROOT, StackError
from sluice_stack.environment import Surroundings

FLASK = (sys.executable, "-m", "flask", "--app", "app_v2")


def is_current(settings: Settings) -> bool:
    """Whether there is nothing to migrate: a fifth of the time that the upgrade takes to say so."""
    wanted = ScriptDirectory(str(ROOT / "backend/migrations")).get_heads()
    engine = create_engine(settings.sqlalchemy_url)
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_heads()
    except SQLAlchemyError:
        return False  # and the upgrade will say why
    finally:
        engine.dispose()
    return set(found) == set(wanted)


def upgrade(surroundings: Surroundings) -> None:
    """Migrate the database; StackError with what went wrong."""
    run = subprocess.run(
        [*FLASK, "db", "upgrade"],
        cwd=ROOT,
        env=surroundings.variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ["no reason was given"]
        errors = [line for line in lines if "Error" in line.split(" ")[0]]
        # Flask's own last words, where the application could not even be loaded.
        told = [line for line in errors if "No such command" not in line] or errors or lines
        raise StackError(f"The database could not be migrated. {told[-1]}")
