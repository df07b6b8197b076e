"""Huey on Redis, which hands a task out for good: one lost with its worker never runs again.

It keeps the results of tasks that return one, so these do; the results are what is done.
"""

from contextlib import nullcontext

import redis
from huey import RedisHuey

from tests.bench.queues.trace import FOLDER, tell_the_time

client = redis.Redis(unix_socket_path=str(FOLDER / "broker.sock"))
huey = RedisHuey("bench", connection_pool=client.connection_pool)
context = nullcontext


@huey.task()
def nothing() -> bool:
    """Do nothing."""
    return True


@huey.task()
def clocked() -> bool:
    """Tell the time."""
    tell_the_time()
    return True


def prepare() -> None:
    """There are no tables."""


def submit() -> None:
    """Submit one."""
    nothing()


def submit_clocked() -> None:
    """Submit one that tells the time."""
    clocked()


def submit_many(number: int) -> None:
    """Submit many: `map`, its documented way, sends one after another."""
    nothing.map([() for _ in range(number)])


def left(number: int) -> int:
    """How many have no result yet."""
    return number - int(client.hlen("huey.results.bench"))


def span() -> None:
    """It keeps no record."""
