"""The Celery instance and beat's clockwork, without a server."""

import pytest
from flask import Flask

from backend.jobs import steward
from backend.jobs.celery_bridge import LedgerScheduler
from tests.unit.jobs.conftest import MakeApp


def test_loading_the_application_connects_to_no_broker(make_app: MakeApp) -> None:
    app = make_app(celery_broker_url="redis://192.0.2.1:6379/0")
    assert app.extensions["sluice.celery"].conf.task_acks_late


def test_beat_ticks_the_steward_and_comes_back_within_a_second(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[None] = []
    monkeypatch.setattr(steward, "tick", lambda: ticks.append(None))
    scheduler = LedgerScheduler(app=app.extensions["sluice.celery"], lazy=True)

    assert 0 < scheduler.tick() <= 1
    assert len(ticks) == 1
