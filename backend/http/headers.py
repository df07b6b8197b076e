"""The headers of requests and answers that the OpenAPI document tells of."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

View = TypeVar("View", bound=Callable[..., Any])


def honours(name: str, description: str, **schema: Any) -> Callable[[View], View]:
    """Document that a view heeds a header of the request."""
    header = {
        "in": "header",
        "name": name,
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }

    def document(view: View) -> View:
        # Where flask-smorest keeps what decorators say of a view; see `http.api.Blueprint`.
        said = deepcopy(getattr(view, "_apidoc", {}))
        said.setdefault("headers", []).append(header)
        view._apidoc = said  # type: ignore[attr-defined]
        return view

    return document


if_none_match = honours(
    "If-None-Match", "The ETag of an earlier answer: if it is this one's too, 304 without a body."
)
EVENT_ID = "[0-9]{1,18}-[0-9]{1,18}"
last_event_id = honours(
    "Last-Event-ID",
    "The last id that a stream gave: the new one goes on after it.",
    pattern=f"^{EVENT_ID}$",
)
byte_range = honours("Range", "One range of bytes (RFC 9110, section 14), to resume a download.")
if_range = honours("If-Range", "The ETag of the part that is there: the range only if it still is.")


def brings(description: str, **schema: Any) -> dict[str, Any]:
    """A header that an answer has."""
    return {"description": description, "required": True, "schema": {"type": "string", **schema}}


ACCEPTED = {
    "Location": brings("Where the job is."),
    "Retry-After": brings("Seconds after which to look.", pattern="^[0-9]+$"),
}
TAGGED = {"ETag": brings("What this answer is known by.")}
PART = {"Content-Range": brings("Which part of how many bytes.")}
