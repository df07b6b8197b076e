"""What can go wrong, as categories that every layer shares.

An error states a fact in one sentence that may be shown to a person, with the value that was
wrong and what would be right. The HTTP edge turns it into a problem document (RFC 9457); a job
that raises it fails with that sentence.
"""

from collections.abc import Mapping
from typing import ClassVar

Fields = Mapping[str, object]


class AppError(Exception):
    """Something went wrong, in words for a person."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal Server Error"
    code: str = "internal"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        fields: Fields | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.fields = dict(fields or {})
        self.retry_after_seconds = retry_after_seconds


class BadRequest(AppError):
    """The request cannot be read."""

    status = 400
    title = "Bad Request"
    code = "bad_request"


class Unauthenticated(AppError):
    """Nobody is signed in, or not validly."""

    status = 401
    title = "Unauthorized"
    code = "unauthenticated"


class PaymentRequired(AppError):
    """The plan does not include this."""

    status = 402
    title = "Payment Required"
    code = "payment_required"


class Forbidden(AppError):
    """The signed-in person may not do this."""

    status = 403
    title = "Forbidden"
    code = "forbidden"


class NotFound(AppError):
    """There is no such thing, or it is another's, which is the same to the caller."""

    status = 404
    title = "Not Found"
    code = "not_found"


class Conflict(AppError):
    """The thing is in a state that does not allow this."""

    status = 409
    title = "Conflict"
    code = "conflict"


class Gone(AppError):
    """The thing was there and has expired."""

    status = 410
    title = "Gone"
    code = "gone"


class TooLarge(AppError):
    """More was sent than is accepted."""

    status = 413
    title = "Content Too Large"
    code = "too_large"


class InvalidInput(AppError):
    """The request can be read, and a value in it is wrong."""

    status = 422
    title = "Unprocessable Content"
    code = "invalid_input"


class LimitReached(AppError):
    """Too many requests, or a quota is used up."""

    status = 429
    title = "Too Many Requests"
    code = "limit_reached"


class Unavailable(AppError):
    """Something that this needs is not there just now; trying again later can help."""

    status = 503
    title = "Service Unavailable"
    code = "unavailable"
