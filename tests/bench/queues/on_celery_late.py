"""Celery so that no task is lost with its worker: acknowledged late, by default one at a time."""

from tests.bench.queues.on_celery import *  # noqa: F403 - the same but for these settings
from tests.bench.queues.on_celery import app

app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
