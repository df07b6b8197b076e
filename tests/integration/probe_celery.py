"""The application with the probe kinds, for `celery -A tests.integration.probe_celery …`."""

from tests.integration import probe_app

# No `app` here: Celery would take the Flask application for its own.
celery = probe_app.app.extensions["sluice.celery"]
