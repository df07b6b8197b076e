"""Floods: of urgent jobs over idle ones, of idle ones under urgent ones, of one tenant's."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

import pytest
from sqlalchemy import select

from backend.db import transaction
from backend.jobs import Queue, batches, submit
from backend.jobs.kinds import JobKind
from backend.jobs.models import Job
from tests.faults.bench import Bench, until
from tests.integration import probes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def waited(bench: Bench, job_id: UUID) -> float:
    """Seconds from a job's submission to its first start."""
    job = bench.job(job_id)
    attempts = bench.attempts(job_id)
    assert attempts, f"{job.kind} has not begun"
    begun: datetime = attempts[0].started_at
    return (begun - job.created_at).total_seconds()


def flood(bench: Bench, kind: JobKind[..., object], count: int, owner_id: int | None) -> UUID:
    """Submit very many jobs at once: the children of one batch."""
    children = [(str(number), {"seconds": 0.02}) for number in range(count)]
    with bench.app.app_context(), transaction() as session:
        return batches.submit_batch(session, probes.close, owner_id, kind, children).id


def call_off(bench: Bench, batch: UUID) -> None:
    """Cancel what is left of a flood."""
    with bench.app.app_context(), transaction() as session:
        batches.cancel(session, session.get_one(Job, batch), by=None, force=True)
    bench.wait_for(batch, "cancelled", "succeeded", seconds=60)


@contextmanager
def endless(bench: Bench, queue: Queue, submit_one: Callable[[], object]) -> Iterator[None]:
    """Twenty jobs wait in the queue at any time."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            with bench.ledger() as session:
                waits = select(Job.id).where(Job.queue == queue, Job.state == "queued")
                missing = 20 - len(session.scalars(waits).all())
            for _ in range(missing):
                submit_one()
            over.wait(0.1)

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(go_on)
        try:
            yield
        finally:
            over.set()
        loading.result()
    until(bench.is_idle, "the load is worked off", 60)


@pytest.mark.row(31)
def test_low_priority_jobs_start_under_endless_high_load(bench: Bench) -> None:
    with endless(bench, Queue.HIGH, lambda: bench.submit(probes.urgent_nap, seconds=0.1)):
        idle = bench.submit(probes.idle_nap, seconds=0.0)
        middle = bench.submit(probes.nap, seconds=0.0)
        bench.assert_done_once(idle, middle, seconds=60)


@pytest.mark.row(31)
def test_a_job_of_low_priority_ages_within_its_queue(bench: Bench) -> None:
    """Endless jobs of a higher priority in the same queue do not keep it waiting for ever."""

    def urgent() -> None:
        with bench.app.app_context(), transaction() as session:
            submit(session, probes.idle_nap, None, seconds=0.2).priority = 9

    with endless(bench, Queue.LOW, urgent):
        idle = bench.submit(probes.idle_nap, seconds=0.0)
        bench.assert_done_once(idle, seconds=60)


@pytest.mark.row(31)
def test_a_high_priority_job_starts_within_a_second_over_a_flood(
    bench: Bench, request: pytest.FixtureRequest
) -> None:
    """Of 100,000 in the full run, 2,000 otherwise."""
    count = 100_000 if request.config.getoption("full") else 2_000
    batch = flood(bench, probes.idle_nap, count, None)
    try:
        for _ in range(5):
            urgent = bench.submit(probes.urgent_nap, seconds=0.0)
            bench.assert_done_once(urgent, seconds=10)
            assert waited(bench, urgent) < 1.0
    finally:
        call_off(bench, batch)


@pytest.mark.row(32)
def test_one_tenants_flood_at_most_doubles_what_others_wait(
    bench: Bench, request: pytest.FixtureRequest
) -> None:
    """Of 100,000 in the full run, 2,000 otherwise. Others have a load of their own."""
    count = 100_000 if request.config.getoption("full") else 2_000
    flooder, *others = (bench.sign_in().id for _ in range(4))

    def p95_of_others() -> float:
        waits = []
        for _ in range(7):
            ids = [
                bench.submit(probes.nap, seconds=0.1, owner_id=other)
                for other in others
                for _ in range(3)
            ]
            bench.assert_done_once(*ids, seconds=60)
            waits += [waited(bench, job_id) for job_id in ids]
        return sorted(waits)[int(len(waits) * 0.95)]

    alone = p95_of_others()
    batch = flood(bench, probes.nap, count, flooder)
    try:
        beside = p95_of_others()
    finally:
        call_off(bench, batch)
    # Under a second, nobody calls it waiting.
    assert beside < max(2 * alone, 1.0)
