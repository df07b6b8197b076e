"""The Celery instance with the bench's kinds: `celery -A tests.bench.queues.sluice_celery …`."""

from tests.bench.queues import kinds

celery = kinds.web.extensions["sluice.celery"]
