"""Every error in one shape: a problem document (RFC 9457) that also speaks to earlier clients."""

from http import HTTPStatus
from itertools import islice
from typing import Any

import structlog
from flask import Flask, Response, g, jsonify, make_response
from marshmallow import Schema, fields
from werkzeug.exceptions import HTTPException

from backend.db import AWAY, db
from backend.errors import AppError, Fields

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
MOST_FIELDS = 20  # that one problem document tells of
LONGEST_FIELD = 100  # characters of a field's name
HINTS = {
    400: "The request cannot be read: {reason}",
    404: "There is nothing at this address.",
    405: "This address does not answer to that method.",
    406: "None of the media types that are accepted can be given.",
    416: "The range asked for is outside the file.",
    500: "Something went wrong on our side. It was logged under the request id.",
    503: "The service cannot answer just now. Try again in a moment.",
}


class ProblemSchema(Schema):
    """A problem document. `error` is the sentence to show a person, `code` the stable name."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    success = fields.Boolean(required=True, metadata={"const": False})
    error = fields.String(required=True)
    code = fields.String(required=True)
    fields_ = fields.Dict(
        keys=fields.String(), data_key="fields", attribute="fields", required=True
    )
    request_id = fields.String(required=True)


def members(
    status: int, detail: str, code: str, errors: Fields, request_id: str
) -> dict[str, object]:
    """The members of a problem document."""
    return {
        "type": f"urn:sluice:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "success": False,
        "error": detail,
        "code": code,
        "fields": dict(errors),
        "request_id": request_id,
    }


def problem(
    status: int,
    detail: str,
    *,
    code: str,
    errors: Fields | None = None,
    retry_after_seconds: float | None = None,
) -> Response:
    """Build the problem document's response. `errors` maps each wrong field to its reasons."""
    response = jsonify(members(status, detail, code, errors or {}, g.get("request_id", "")))
    response.status_code = status
    response.content_type = MEDIA_TYPE
    if retry_after_seconds is not None:
        response.headers["Retry-After"] = str(max(1, round(retry_after_seconds)))
    return response


def register_problems(app: Flask) -> None:
    """Answer every error of the application with a problem document."""
    app.register_error_handler(AppError, _from_app_error)
    app.register_error_handler(HTTPException, _from_http_exception)
    app.register_error_handler(Exception, _from_surprise)
    for away in AWAY:
        app.register_error_handler(away, _from_database)


def _from_app_error(error: AppError) -> Response:
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request_failed", code=error.code, error=error.detail)
    retry_after = error.retry_after_seconds
    if retry_after is None and error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after = 5
    return problem(
        error.status,
        error.detail,
        code=error.code,
        errors=error.fields,
        retry_after_seconds=retry_after,
    )


def _from_http_exception(error: HTTPException) -> Response:
    """Speak for werkzeug, Flask and webargs; keep their headers (Allow, WWW-Authenticate, …)."""
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    if status < HTTPStatus.BAD_REQUEST:
        return make_response(error.get_response())
    errors = _field_errors(getattr(error, "data", None))
    code = HTTPStatus(status).name.lower()
    detail = HINTS.get(status, error.description or "").format(reason=error.description)
    if errors:
        code, detail = "invalid_input", _first_sentence(errors)
    response = problem(status, detail, code=code, errors=errors)
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def _from_surprise(error: Exception) -> Response:
    # The whole story goes to the log; nothing of it leaves.
    log.error("request_crashed", exc_info=error)
    return problem(500, HINTS[500], code="internal")


def _from_database(error: Exception) -> Response:
    log.warning("database_away", error=type(error).__name__)
    db.session.rollback()
    return problem(503, HINTS[503], code="unavailable", retry_after_seconds=5)


def _field_errors(data: dict[str, Any] | None) -> dict[str, Any]:
    """webargs reports {location: {field: [reasons]}}; callers think in fields alone."""
    found = (data or {}).get("messages") or (data or {}).get("errors") or {}
    merged: dict[str, Any] = {}
    for location, errors in found.items():
        merged.update(errors if isinstance(errors, dict) else {location: errors})
    kept: dict[str, Any] = _bounded(merged)
    return kept


def _bounded(reasons: Any) -> Any:
    """What is wrong with the first of many: an answer must not be larger than what it answers."""
    if isinstance(reasons, dict):
        first = islice(reasons.items(), MOST_FIELDS)
        return {str(name)[:LONGEST_FIELD]: _bounded(inner) for name, inner in first}
    return reasons


def _first_sentence(errors: dict[str, Any]) -> str:
    name, reasons = next(iter(errors.items()))
    path = [name]
    while isinstance(reasons, dict) and reasons:
        key, reasons = next(iter(reasons.items()))
        path.append(str(key))
    reason = reasons[0] if isinstance(reasons, list) and reasons else reasons
    where = ".".join(part for part in path if part != "_schema") or "body"
    more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {reason}{more}"
