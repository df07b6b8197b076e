"""Health, readiness and metrics."""

from typing import Any

from flask import Response
from marshmallow import Schema, fields

from backend.accounts.guards import admin_only
from backend.http.api import Blueprint
from backend.http.rate_limits import limiter
from backend.ops import doctor, metrics, readiness

blueprint = Blueprint("ops", __name__, description="Health, readiness, metrics")
limiter.exempt(blueprint)


class HealthSchema(Schema):
    """This process answers."""

    status = fields.String(required=True)


class FindingSchema(Schema):
    """One thing that is wrong, and what to do about it."""

    check = fields.String(required=True)
    problem = fields.String(required=True)
    advice = fields.String(required=True)


class DoctorSchema(Schema):
    """What is wrong; nothing where `healthy`."""

    success = fields.Boolean(required=True)
    healthy = fields.Boolean(required=True)
    findings = fields.List(fields.Nested(FindingSchema), required=True)


class ReadinessSchema(Schema):
    """What is needed, each "ok" or a sentence that says what is wrong."""

    status = fields.String(required=True)
    checks = fields.Dict(keys=fields.String(), values=fields.String(), required=True)


@blueprint.route("/healthz")
@blueprint.response(200, HealthSchema)
def healthz() -> dict[str, Any]:
    """Say that this process is alive."""
    return {"status": "ok"}


@blueprint.route("/readyz")
@blueprint.response(200, ReadinessSchema)
@blueprint.alt_response(503, schema=ReadinessSchema, description="Something is missing")
def readyz() -> Any:
    """Say whether all that is needed is there: database, broker, storage, workers."""
    found = readiness.checks()
    ready = all(said == "ok" for said in found.values())
    answer = {"status": "ok" if ready else "not ready", "checks": found}
    return (answer, 200) if ready else (answer, 503, {"Retry-After": "5"})


@blueprint.route("/api/admin/doctor")
@admin_only
@blueprint.response(200, DoctorSchema)
def examine() -> dict[str, Any]:
    """Compare ledger, broker, workers, storage and schedules: what is wrong, and what to do."""
    return doctor.as_json(doctor.examine())


@blueprint.route("/metrics")
@blueprint.response(200, content_type="text/plain", schema={"type": "string"})
def scrape() -> Response:
    """Give the metrics in Prometheus' text format."""
    return metrics.exposition()
