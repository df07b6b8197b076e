"""A batch of very many children, with its workers killed under it."""

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.db import transaction
from backend.jobs import ledger, submit_batch
from backend.jobs.models import Job, JobEvent
from tests.faults.bench import Bench, memory_of, until
from tests.integration import probes

pytestmark = [pytest.mark.integration]

MIB = 2**20


@pytest.mark.row(30)
@pytest.mark.timeout(3600)
def test_a_batch_of_very_many_children_is_closed_once_and_stays_within_its_memory(
    bench: Bench, request: pytest.FixtureRequest
) -> None:
    """100,000 children in the full run, 400 otherwise."""
    count = 100_000 if request.config.getoption("full") else 400
    children: Iterator[tuple[str, dict[str, Any]]] = (
        (f"item {number}", {"seconds": 0.0}) for number in range(count)
    )
    before = {name: memory_of(bench.tree(name)) for name in ("web", "default", "beat")}
    gc.collect()
    tracemalloc.start()
    try:
        with bench.app.app_context(), transaction() as session:
            batch = submit_batch(session, probes.close, None, probes.nap, children).id
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    bench.accepted.add(batch)
    assert peak < 64 * MIB

    def done() -> int:
        with bench.ledger() as session:
            of_batch = Job.parent_id == batch, Job.state == "succeeded"
            return session.scalar(select(func.count()).select_from(Job).where(*of_batch)) or 0

    for part in (3, 2):
        until(lambda part=part: done() > count // part, "a part is done", 3000)
        with bench.killed("default"):
            pass
    bench.assert_done_once(batch, seconds=3000)

    assert done() == count
    assert [outcome.outcome for outcome in bench.attempts(batch)][-1] == "succeeded"
    with bench.ledger() as session:
        closed = JobEvent.job_id == batch, JobEvent.state == "succeeded"
        assert session.scalar(select(func.count()).select_from(JobEvent).where(*closed)) == 1
    assert len(bench.runs(batch)) == 1
    for name, bytes_before in before.items():
        assert memory_of(bench.tree(name)) < bytes_before + 100 * MIB
    bench.check()
    with bench.app.app_context(), transaction() as session:
        ledger.remove(session, session.get_one(Job, batch))
    bench.deleted.add(batch)
