"""The one Celery instance: `celery -A celery_app worker|beat|status|inspect …` start here."""

from backend.app import create_app
from backend.jobs.celery_bridge import make_celery

celery = make_celery(create_app())
