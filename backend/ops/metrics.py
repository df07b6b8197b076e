"""Prometheus metrics: the ledger's state as gauges, and what the processes counted."""

from collections.abc import Iterable
from pathlib import Path

from flask import Flask, Response, current_app, g, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select

from backend.config import Settings
from backend.db import db, db_now
from backend.jobs.kinds import Queue
from backend.jobs.models import IS_LEASED, IS_READY, Job, Worker

WORKER_SECONDS = 60.0

REQUESTS = Counter("sluice_http_requests", "Answered requests.", ["method", "route", "status"])
REQUEST_SECONDS = Histogram(
    "sluice_http_request_duration_seconds",
    "How long answers took.",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)


class LedgerCollector(Collector):
    """What the ledger says at the moment of the scrape; the same from every web process."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Ask the ledger."""
        yield from _queues()
        yield _jobs()
        yield _leases()
        yield _workers()
        db.session.commit()


def _queues() -> Iterable[GaugeMetricFamily]:
    depth = GaugeMetricFamily("sluice_queue_depth", "Jobs that are ready.", labels=["queue"])
    oldest = GaugeMetricFamily(
        "sluice_queue_oldest_wait_seconds", "How long the oldest ready job waits.", labels=["queue"]
    )
    query = select(Job.queue, func.count(), func.min(Job.run_at)).where(
        IS_READY, Job.run_at <= db_now()
    )
    found = {row[0]: row for row in db.session.execute(query.group_by(Job.queue))}
    now = db.session.scalars(select(db_now())).one()
    for queue in Queue:
        _, count, since = found.get(queue, (queue, 0, None))
        depth.add_metric([queue], count)
        oldest.add_metric([queue], max(0.0, (now - since).total_seconds()) if since else 0.0)
    yield depth
    yield oldest


def _jobs() -> GaugeMetricFamily:
    jobs = GaugeMetricFamily("sluice_jobs", "Jobs in the ledger.", labels=["kind", "state"])
    query = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state)
    for kind, state, count in db.session.execute(query):
        jobs.add_metric([kind, state], count)
    return jobs


def _leases() -> GaugeMetricFamily:
    leases = GaugeMetricFamily("sluice_leases", "Running attempts.", labels=["state"])
    expired = func.coalesce(func.sum(case((Job.lease_expires_at < db_now(), 1), else_=0)), 0)
    total, late = db.session.execute(select(func.count(), expired).where(IS_LEASED)).one()
    leases.add_metric(["held"], total - late)
    leases.add_metric(["expired"], late)
    return leases


def _workers() -> GaugeMetricFamily:
    slots = GaugeMetricFamily("sluice_worker_slots", "Slots that serve a queue.", labels=["queue"])
    seen = db.session.scalars(select(Worker).where(Worker.seen_at > db_now(-WORKER_SECONDS))).all()
    for queue in Queue:
        slots.add_metric([queue], sum(each.slots for each in seen if queue in each.queues))
    return slots


def exposition() -> Response:
    """All metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector())
    settings: Settings = current_app.config["SLUICE"]
    folder = settings.prometheus_multiproc_dir
    text = generate_latest(registry)
    if folder and Path(folder).is_dir():
        shared = CollectorRegistry()
        MultiProcessCollector(shared, path=folder)  # type: ignore[no-untyped-call]
        text += generate_latest(shared)
    else:
        text += generate_latest(REGISTRY)
    return Response(text, content_type=CONTENT_TYPE_LATEST)


def count_requests(app: Flask, settings: Settings) -> None:
    """Count every request by its route's pattern, which keeps the number of series bounded."""

    def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "(none)"
        REQUESTS.labels(request.method, route, response.status_code).inc()
        if not response.is_streamed:
            REQUEST_SECONDS.labels(request.method, route).observe(g.elapsed_seconds())
        return response

    app.after_request(count)
