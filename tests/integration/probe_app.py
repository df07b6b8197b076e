"""The application with the probe kinds, for gunicorn."""

from backend.app import create_app
from tests.integration.probes import KINDS

app = create_app()
app.extensions["sluice.kinds"] = KINDS
