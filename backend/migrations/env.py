"""How Alembic reaches the application's database; `flask --app app_v2 db …` runs it."""

from typing import Literal

from alembic import context
from flask import current_app
from sqlalchemy import Enum

from backend.db import Base, UtcDateTime


def render_item(kind: str, item: object, autogen: object) -> str | Literal[False]:
    """Write our types into migrations as what they are in the database."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, Enum):  # kept as plain text
        return f"sa.String(length={item.length})"
    return False


def migrate() -> None:
    """Run the migrations in one transaction."""
    engine = current_app.extensions["migrate"].db.engine
    with engine.connect().execution_options(writes=True) as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_item=render_item,
            render_as_batch=True,
            compare_type=True,
        )
        with context.begin_transaction():
            context.run_migrations()


migrate()
