"""The application with the schedules of the fault bench, for `celery -A … beat`."""

from tests.faults.scheduled import EACH_SECOND, HALF_HOURLY
from tests.integration import probe_app

probe_app.app.extensions["sluice.schedules"] = (EACH_SECOND, *HALF_HOURLY)
# No `app` here: Celery would take the Flask application for its own.
celery = probe_app.app.extensions["sluice.celery"]
