"""Scratch directories: one for each attempt, and gone with it."""

import re
import shutil
from pathlib import Path
from uuid import UUID

from sqlalchemy import select

from backend.config import Settings
from backend.db import db
from backend.jobs.claims import Fence
from backend.jobs.models import IS_LEASED, Job

NAME = re.compile(r"[0-9a-f]{32}-\d+")


def workspace_of(settings: Settings, held: Fence) -> Path:
    """The scratch directory of an attempt."""
    return settings.workspaces / "jobs" / f"{held.job_id.hex}-{held.attempt}"


def discard(settings: Settings, held: Fence) -> None:
    """Remove an attempt's scratch files."""
    shutil.rmtree(workspace_of(settings, held), ignore_errors=True)


def sweep(settings: Settings) -> int:
    """Remove what attempts left on this machine whose whole worker died; return how many."""
    found = (settings.workspaces / "jobs").glob("*-*")
    left = [path for path in found if NAME.fullmatch(path.name) and not _is_used(path)]
    db.session.commit()
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def _is_used(path: Path) -> bool:
    job_id, _, attempt = path.name.partition("-")
    used = select(Job.id).where(Job.id == UUID(job_id), Job.attempt == int(attempt), IS_LEASED)
    return db.session.execute(used).first() is not None
