"""A worker's slot in a process of its own, told on its input what to do, a line at a time.

A process that forks attempts must not have used the blob store, and one that serves requests has.
"""

import json
import sys
from functools import cache

from flask import Flask

from backend.app import create_app
from backend.config import Settings
from backend.jobs.claims import Slot
from backend.jobs.runner import Watch

WORKER = "test@host/1"


@cache
def app_of(settings: str) -> Flask:
    return create_app(Settings(_env_file=None, **json.loads(settings)))


def work(settings: str, queue: str) -> int:
    """Run a queue's jobs until none is ready; return how many attempts that took."""
    with app_of(settings).app_context():
        return watch_of(settings, queue).serve()


@cache
def watch_of(settings: str, queue: str) -> Watch:
    return Watch(Slot(WORKER, (queue,), lease_seconds=30))


if __name__ == "__main__":
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(f"{work(order['settings'], order['queue'])}\n")
        sys.stdout.flush()
