"""The HTTP edge's own Api and Blueprint: strict input, and errors documented as they are."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import flask
import flask_smorest
from webargs import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.routing import IntegerConverter

from backend.config import Settings
from backend.errors import InvalidInput
from backend.http.bodies import received, refuse_unstorable
from backend.http.problems import MEDIA_TYPE, ProblemSchema


class StrictParser(FlaskParser):
    """Reads arguments; what is unknown, not JSON, too long or unstorable is refused by name."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs declares it as a plain dict
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": "raise",
        "form": "raise",
    }

    def _raw_load_json(self, req: flask.Request) -> Any:
        body = received(req)
        if not body.text:
            return missing
        if not req.is_json:
            raise UnsupportedMediaType("The body must be sent as application/json.")
        return body.json()

    def load_querystring(self, req: flask.Request, schema: Any) -> Any:
        """Return the query's parameters."""
        refuse_unstorable(req.args.to_dict(flat=False))
        return super().load_querystring(req, schema)


def check_form(req: flask.Request, files: dict[str, bool], fields: dict[str, bool]) -> None:
    """Refuse parts of a form that are unknown, or come twice where that has no meaning.

    `files` and `fields` name the parts that are known, and whether each may come more than once.
    """
    for sent, known in ((req.files, files), (req.form, fields)):
        for name in sent:
            if name not in known:
                accepted = ", ".join([*files, *fields])
                raise InvalidInput(
                    f"{name[:80]}: is not a part of this form; known are {accepted}.",
                    fields={name[:80]: ["Unknown field."]},
                )
            if len(sent.getlist(name)) > 1 and not known[name]:
                raise InvalidInput(
                    f"{name}: was sent {len(sent.getlist(name))} times; it is taken once.",
                    fields={name: ["Was sent more than once."]},
                )


View = TypeVar("View", bound=Callable[..., Any])

if TYPE_CHECKING:
    # flask-smorest ships no types; its decorators keep a view's.
    class _Blueprint(flask.Blueprint):
        _prepare_doc_cbks: list[Callable[..., dict[str, Any]]]

        def __init__(
            self, name: str, import_name: str, *, description: str = "", **options: Any
        ) -> None: ...
        def arguments(self, schema: Any, **options: Any) -> Callable[[View], View]: ...
        def response(
            self, status_code: int, schema: Any = None, **options: Any
        ) -> Callable[[View], View]: ...
        def alt_response(
            self, status_code: int, response: Any = None, **options: Any
        ) -> Callable[[View], View]: ...
        def doc(self, **options: Any) -> Callable[[View], View]: ...
        def route(self, rule: str, **options: Any) -> Callable[[View], View]: ...

else:
    _Blueprint = flask_smorest.Blueprint


class Blueprint(_Blueprint):
    """A domain's routes."""

    ARGUMENTS_PARSER = StrictParser()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._prepare_doc_cbks.append(_with_headers)


def _with_headers(doc: dict[str, Any], said: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add to an operation what `headers.honours` says of it."""
    if "headers" in said:
        doc["parameters"] = [*doc.get("parameters", []), *said["headers"]]
    return doc


class Api(flask_smorest.Api):  # type: ignore[misc] # it ships no types
    """The OpenAPI document and its page."""

    ERROR_SCHEMA = ProblemSchema

    def _register_error_handlers(self) -> None:
        """`problems` answers all errors; flask-smorest's own shape is not used."""

    def _register_responses(self) -> None:
        # flask-smorest knows one media type for all responses; errors have their own.
        self.DEFAULT_RESPONSE_CONTENT_TYPE = MEDIA_TYPE
        super()._register_responses()
        del self.DEFAULT_RESPONSE_CONTENT_TYPE


class RowNumber(IntegerConverter):
    """A row's number in an address; a longer one than any row can have leads nowhere."""

    regex = "[0-9]{1,18}"


def configure_api(app: flask.Flask) -> Api:
    """Serve the OpenAPI 3.1 document at /api/openapi.json; the page is at /api/docs."""
    app.url_map.converters["row"] = RowNumber
    app.config.update(
        API_TITLE="Sluice",
        API_VERSION="1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/api",
        OPENAPI_JSON_PATH="openapi.json",
        API_SPEC_OPTIONS={
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
                }
            },
        },
    )
    return Api(app)


def settings() -> Settings:
    """The application's settings."""
    found: Settings = flask.current_app.config["SLUICE"]
    return found
