"""A server's whole application under load: what a deploy of it may not do."""

from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from backend.jobs.models import Attempt, Job
from tests import invariants
from tests.faults.load import Load

SETTINGS = {
    "SECRET_KEY": "k" * 64,
    "REQUEST_LIMIT_PER_USER": "100000 per minute",
    # Less than most jobs take: so that some are handed back.
    "DEPLOY_GRACE_SECONDS": "0.2",
}
CALLERS = 3


def is_ready(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    return False


def assert_unnoticed(load: Load, ledger: Path) -> None:
    """No request has failed or was sent away, and each job succeeded and is charged once."""
    assert load.failures == []
    assert load.answers["told to come back"] == 0
    engine = create_engine(f"sqlite:///{ledger}")
    with Session(engine) as session:
        jobs = session.scalars(select(Job).where(Job.owner_id.is_not(None))).all()
        assert len(jobs) > len(load.batches)
        assert {job.state for job in jobs} == {"succeeded"}
        charged = [job.attempt - job.uncharged for job in jobs]
        assert set(charged) == {1}, Counter(charged)
        outcomes = Counter(session.scalars(select(Attempt.outcome)))
        assert set(outcomes) <= {"succeeded", "handed_back"}, outcomes
        assert invariants.broken(session) == []
    engine.dispose()
