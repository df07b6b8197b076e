"""Celery alone, with its Redis result backend.

`prefork` with two processes. Its guide on optimising says that short tasks are faster with a
prefetch multiplier of 50 or 150, so 64. `on_celery_late` has what its FAQ advises where no task
may be lost with its worker.
"""

import json
from contextlib import nullcontext
from datetime import datetime

import redis
from celery import Celery

from tests.bench.queues.trace import FOLDER, tell_the_time

app = Celery(
    broker=f"redis+socket://{FOLDER}/broker.sock?virtual_host=0",
    backend=f"redis+socket://{FOLDER}/broker.sock?virtual_host=1",
)
app.conf.worker_prefetch_multiplier = 64
results = redis.Redis(unix_socket_path=str(FOLDER / "broker.sock"), db=1)
context = nullcontext


@app.task(name="nothing")
def nothing() -> None:
    """Do nothing."""


@app.task(name="clocked")
def clocked() -> None:
    """Tell the time."""
    tell_the_time()


def prepare() -> None:
    """There are no tables."""


def submit() -> None:
    """Submit one."""
    nothing.delay()


def submit_clocked() -> None:
    """Submit one that tells the time."""
    clocked.delay()


def submit_many(number: int) -> None:
    """Submit many over one producer, as the guide on calling tasks says."""
    with app.producer_or_acquire() as producer:
        for _ in range(number):
            nothing.apply_async(producer=producer)


def left(number: int) -> int:
    """How many have no result yet: the backend's database holds nothing else."""
    return number - int(results.dbsize())


def span() -> float:
    """By the results' `date_done`."""
    ended = [
        datetime.fromisoformat(json.loads(result)["date_done"])
        for result in results.mget(list(results.scan_iter("celery-task-meta-*", count=1000)) or "-")
        if result
    ]
    return (max(ended) - min(ended)).total_seconds() if ended else 0.0
