"""The Celery instance and beat's clockwork, without a server."""

import signal
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from backend.jobs import steward
from backend.jobs.celery_bridge import LedgerScheduler
from tests.unit.jobs.conftest import MakeApp


def test_loading_the_application_connects_to_no_broker(make_app: MakeApp) -> None:
    app = make_app(celery_broker_url="redis://192.0.2.1:6379/0")
    assert app.extensions["sluice.celery"].conf.task_acks_late


@pytest.fixture
def handlers() -> Iterator[None]:
    """Beat's handlers of signals, and its timer, for as long as a test."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_beat_ticks_the_steward_and_comes_back_within_a_second(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[bool] = []
    monkeypatch.setattr(steward, "tick", lambda is_over: ticks.append(is_over()))
    scheduler = LedgerScheduler(app=app.extensions["sluice.celery"], lazy=True)

    assert 0 < scheduler.tick() <= 1
    assert ticks == [False]


@pytest.mark.usefixtures("handlers")
def test_beat_that_is_told_to_end_does_so_after_its_duty(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bool] = []

    def duty(is_over: Callable[[], bool]) -> None:
        signal.raise_signal(signal.SIGTERM)
        done.append(is_over())

    monkeypatch.setattr(steward, "tick", duty)
    scheduler = LedgerScheduler(app=app.extensions["sluice.celery"], lazy=True)

    with pytest.raises(SystemExit):
        scheduler.tick()
    assert done == [True]


@pytest.mark.usefixtures("handlers")
def test_beat_that_is_told_to_end_between_two_looks_does_so_at_once(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steward, "tick", lambda _: None)
    scheduler = LedgerScheduler(app=app.extensions["sluice.celery"], lazy=True)
    scheduler.tick()

    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)
