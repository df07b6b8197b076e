"""The HTTP edge's own Api and Blueprint: strict input, and errors documented as they are."""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import flask
import flask_smorest
from webargs import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.routing import IntegerConverter

from backend.config import Settings
from backend.errors import BadRequest, InvalidInput, TooLarge
from backend.http.problems import MEDIA_TYPE, ProblemSchema

# No database column can hold these, so no text may bring them in.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
ESCAPED_UNSTORABLE = re.compile(rb"\\u(0000|[dD][89a-fA-F])")
MOST_DIGITS = 1000


class StrictParser(FlaskParser):
    """Reads arguments; what is unknown, not JSON, too long or unstorable is refused by name."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs declares it as a plain dict
        **FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION,
        "query": "raise",
        "form": "raise",
    }

    def _raw_load_json(self, req: flask.Request) -> Any:
        raw = plain_body(req)
        if not raw:
            return missing
        if not req.is_json:
            raise UnsupportedMediaType("The body must be sent as application/json.")
        try:
            body = strict_json(raw)
        except RecursionError:
            raise BadRequest("The JSON body is nested too deeply.") from None
        except ValueError as error:
            raise BadRequest(f"The body is not JSON: {error}.", code="invalid_json") from None
        if ESCAPED_UNSTORABLE.search(raw):
            refuse_unstorable(body)
        return body

    def load_querystring(self, req: flask.Request, schema: Any) -> Any:
        """Return the query's parameters."""
        refuse_unstorable(req.args.to_dict(flat=False))
        return super().load_querystring(req, schema)


def plain_body(req: flask.Request) -> bytes:
    """The whole body of a request that is no form; TooLarge over the limit of JSON bodies."""
    limit = settings().max_json_bytes
    req.max_content_length = limit
    try:
        raw = req.get_data(cache=True)
    except RequestEntityTooLarge:
        raise _json_too_large(f"{req.content_length} bytes", limit) from None
    # Of a body of unknown length werkzeug reads so much, and does not say whether there is more.
    if req.content_length is None and len(raw) >= limit:
        raise _json_too_large("more", limit)
    return raw


def _json_too_large(sent: str, limit: int) -> TooLarge:
    return TooLarge(
        f"The JSON body has {sent}; at most {limit} bytes are accepted."
        " Send files as multipart/form-data instead."
    )


def strict_json(raw: bytes) -> Any:
    """Read JSON to the letter of RFC 8259, and of I-JSON's rule that no name comes twice.

    Raises ValueError for what is none, RecursionError for what is nested too deeply.
    """
    return json.loads(
        raw.decode(),
        object_pairs_hook=_without_doubles,
        parse_constant=_refuse_constant,
        parse_int=_whole_number,
    )


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name[:80]!a} comes twice in one object")
        members[name] = value
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits; at most {MOST_DIGITS} are read")
    return int(digits)


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
            " (NUL or half of a surrogate pair); remove it.",
            fields={ascii(name)[1:-1]: ["Has a character that is not text."]},
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
