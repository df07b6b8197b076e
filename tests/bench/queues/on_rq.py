"""RQ. Its notes on performance: Worker, a process for each job, in production; SimpleWorker, which
runs jobs in its own process, for jobs of a few milliseconds that are trusted not to crash.
"""

from contextlib import nullcontext
from datetime import datetime

import redis
import rq

from tests.bench.queues.trace import FOLDER, tell_the_time

client = redis.Redis(unix_socket_path=str(FOLDER / "broker.sock"))
queue = rq.Queue(connection=client)
context = nullcontext
FINISHED = "rq:finished:default"


def nothing() -> None:
    """Do nothing."""


def clocked() -> None:
    """Tell the time."""
    tell_the_time()


def prepare() -> None:
    """There are no tables."""


def submit() -> None:
    """Submit one."""
    queue.enqueue(nothing)


def submit_clocked() -> None:
    """Submit one that tells the time."""
    queue.enqueue(clocked)


def submit_many(number: int) -> None:
    """Submit many in one pipeline."""
    queue.enqueue_many([rq.Queue.prepare_data(nothing) for _ in range(number)])


def left(number: int) -> int:
    """How many are not in the registry of finished jobs."""
    return number - int(client.zcard(FINISHED))


def span() -> float:
    """By the jobs' `ended_at`."""
    with client.pipeline(transaction=False) as pipeline:
        for job_id in client.zrange(FINISHED, 0, -1):
            pipeline.hget(f"rq:job:{job_id.decode().partition(':')[0]}", "ended_at")
        ended = [datetime.fromisoformat(value.decode()) for value in pipeline.execute() if value]
    return (max(ended) - min(ended)).total_seconds() if ended else 0.0
