"""Lists: opaque cursors over a descending key, stable while rows are inserted."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from marshmallow import Schema, fields, validate

from backend.errors import InvalidInput
from backend.http.fields import WholeNumber

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and the cursor of the next part (None at the end)."""

    items: Sequence[T]
    next_cursor: str | None


class PageQuery(Schema):
    """The query of every list."""

    cursor = fields.String(validate=validate.Length(max=500))
    limit = WholeNumber(load_default=DEFAULT_LIMIT, validate=validate.Range(1, MAX_LIMIT))


def page_of(rows: Sequence[T], limit: int, key: Callable[[T], list[Any]]) -> Page[T]:
    """Cut `limit + 1` fetched rows to a page; `key` gives a row's place as plain JSON values."""
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], encode_cursor(key(rows[limit - 1])))


def encode_cursor(key: list[Any]) -> str:
    """Make an opaque cursor of a row's place."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *types: type) -> list[Any]:
    """Return the place that a cursor names; raise InvalidInput unless it has these types."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        key = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
    except (ValueError, binascii.Error, RecursionError):
        key = None
    if not isinstance(key, list) or [type(value) for value in key] != [*types]:
        raise not_a_cursor(cursor)
    if any(isinstance(value, int) and not 0 <= value < 2**63 for value in key):
        raise not_a_cursor(cursor)  # no row has such a place
    return key


def not_a_cursor(cursor: str) -> InvalidInput:
    """The refusal of a cursor that somebody made up."""
    return InvalidInput(
        f"cursor: {cursor[:40]!a} is not a cursor that this list gave out.",
        fields={"cursor": ["Not a cursor that this list gave out."]},
    )
