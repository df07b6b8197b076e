"""Assembles the application, and nothing else: what it is made of stands in `wiring`."""

from flask import Flask
from flask_swagger_ui import get_swaggerui_blueprint

from backend import wiring
from backend.config import Settings, load_settings
from backend.db import db, engine_options, migrate
from backend.http.api import configure_api
from backend.http.problems import register_problems
from backend.http.rate_limits import register_rate_limits
from backend.http.requests import register_requests
from backend.jobs.kinds import Kinds
from backend.logs import configure_logging


def create_app(settings: Settings | None = None) -> Flask:
    """Make the Flask application from settings (read from the environment unless given)."""
    settings = settings or load_settings()
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined] # the default provider has it
    app.config["SLUICE"] = settings
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.sqlalchemy_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(settings.sqlalchemy_url)
    configure_logging(settings)
    register_requests(app, settings)
    register_problems(app)
    register_rate_limits(app, settings)
    db.init_app(app)
    migrate.init_app(app, db, directory="backend/migrations")
    app.extensions["sluice.kinds"] = Kinds(wiring.JOB_KINDS)
    app.extensions["sluice.schedules"] = wiring.SCHEDULES
    for extend in wiring.EXTENSIONS:
        extend(app, settings)
    api = configure_api(app)
    for blueprint in wiring.BLUEPRINTS:
        api.register_blueprint(blueprint)
    app.register_blueprint(
        get_swaggerui_blueprint(
            "/api/docs",
            "/api/openapi.json",
            # Without an address here, the page would send the document to a validator outside.
            config={"app_name": "Sluice", "validatorUrl": None},
        )
    )
    for command in wiring.COMMANDS:
        app.cli.add_command(command)
    return app
