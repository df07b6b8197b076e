"""The doorbell, without a server."""

import time
from uuid import uuid4

from flask import Flask

from backend.jobs import Queue
from backend.jobs.broker import BrokerDepths, BrokerDoorbell
from tests.unit.jobs.conftest import MakeApp


def test_a_ring_puts_one_message_for_each_job_into_its_queue(app: Flask) -> None:
    bell, depths = BrokerDoorbell(app.extensions["sluice.celery"]), BrokerDepths("memory://")
    before = depths()["low_priority"]
    bell.ring(Queue.LOW, [uuid4(), uuid4()])
    bell.flush(5)

    assert depths()["low_priority"] == before + 2


def test_a_queue_that_nobody_has_declared_is_empty(app: Flask) -> None:
    assert set(BrokerDepths("memory://")()) == set(Queue)


def test_a_broker_that_is_away_holds_up_nobody_who_rings(make_app: MakeApp) -> None:
    app = make_app(celery_broker_url="redis://127.0.0.1:1/0")
    bell = BrokerDoorbell(app.extensions["sluice.celery"])
    started = time.monotonic()
    for _ in range(1000):
        bell.ring(Queue.DEFAULT, [uuid4()])

    assert time.monotonic() - started < 0.5
    bell.flush(10)
