"""The HTTP edge's own Api and Blueprint: strict input, and errors documented as they are."""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import flask
import flask_smorest
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from backend.config import Settings
from backend.errors import BadRequest, InvalidInput, TooLarge
from backend.http.problems import MEDIA_TYPE, ProblemSchema

# No database column can hold these, so no text may bring them in.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
ESCAPED_UNSTORABLE = re.compile(rb"\\u(0000|[dD][89a-fA-F])")


class StrictParser(FlaskParser):
    """Reads arguments; what is unknown, not JSON, too long or unstorable is refused by name."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs declares it as a plain dict
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": "raise",
        "form": "raise",
    }

    def _raw_load_json(self, req: flask.Request) -> Any:
        limit = flask.current_app.config["SLUICE"].max_json_bytes
        req.max_content_length = limit
        try:
            raw = req.get_data(cache=True)
        except RequestEntityTooLarge:
            raise json_too_large(req.content_length, limit) from None
        if raw and not req.is_json:
            raise UnsupportedMediaType
        try:
            body = super()._raw_load_json(req)
        except RecursionError:
            raise BadRequest("The JSON body is nested too deeply.") from None
        if ESCAPED_UNSTORABLE.search(raw):
            refuse_unstorable(body)
        return body

    def load_querystring(self, req: flask.Request, schema: Any) -> Any:
        """Return the query's parameters."""
        refuse_unstorable(req.args.to_dict(flat=False))
        return super().load_querystring(req, schema)

    def _handle_invalid_json_error(
        self, error: json.JSONDecodeError | UnicodeDecodeError, *args: Any, **kwargs: Any
    ) -> NoReturn:
        raise BadRequest(f"The body is not JSON: {error}.", code="invalid_json") from None


def json_too_large(sent: int | None, limit: int) -> TooLarge:
    """The refusal of a JSON body over the limit."""
    size = f"{sent} bytes" if sent else "more"
    return TooLarge(
        f"The JSON body has {size}; at most {limit} bytes are accepted."
        " Send files as multipart/form-data instead."
    )


def refuse_unstorable(value: object, name: str = "body") -> None:
    """Raise InvalidInput if any text in the value has a NUL or half of a surrogate pair."""
    if isinstance(value, dict):
        for key, inner in value.items():
            refuse_unstorable(key, name)
            refuse_unstorable(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            refuse_unstorable(inner, name)
    elif isinstance(value, str) and UNSTORABLE.search(value):
        raise InvalidInput(
            f"{ascii(name)[1:-1]}: {value[:80]!a} has a character that is not text"
            " (NUL or half of a surrogate pair); remove it."
        )


View = TypeVar("View", bound=Callable[..., Any])

if TYPE_CHECKING:
    # flask-smorest ships no types; its decorators keep a view's.
    class _Blueprint(flask.Blueprint):
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


def configure_api(app: flask.Flask) -> Api:
    """Serve the OpenAPI 3.1 document at /api/openapi.json; the page is at /api/docs."""
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
