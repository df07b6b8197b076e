"""The one Celery instance: `celery -A celery_app worker|beat|status|inspect …` start here."""

from backend.app import create_app

celery = create_app().extensions["sluice.celery"]
