"""Dramatiq on Redis, with its default middleware: acknowledged after the run, retried, no results.

Its documentation: messages are acknowledged once processed, and results are for those who need
them. A message leaves the queue's hash when it is acknowledged; so the hash is what is left.
"""

from contextlib import nullcontext

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker

from tests.bench.queues.trace import FOLDER, tell_the_time

client = redis.Redis(unix_socket_path=str(FOLDER / "broker.sock"))
broker = RedisBroker(client=client)
dramatiq.set_broker(broker)
context = nullcontext


@dramatiq.actor
def nothing() -> None:
    """Do nothing."""


@dramatiq.actor
def clocked() -> None:
    """Tell the time."""
    tell_the_time()


def prepare() -> None:
    """There are no tables."""


def submit() -> None:
    """Submit one."""
    nothing.send()


def submit_clocked() -> None:
    """Submit one that tells the time."""
    clocked.send()


def submit_many(number: int) -> None:
    """Submit many: a group, which is its one documented way, sends one after another."""
    dramatiq.group(nothing.message() for _ in range(number)).run()


def left(_number: int) -> int:
    """How many messages are not acknowledged."""
    return int(client.hlen("dramatiq:default.msgs"))


def span() -> None:
    """It keeps no record."""
