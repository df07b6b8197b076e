"""Idempotency-Key: the same key and body give the first answer again.

The draft standard's words are followed (IETF, The Idempotency-Key HTTP Header Field): 409 while
the first request is under way, 422 if the body differs.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, ParamSpec

from flask import Response, g, make_response, request
from flask_jwt_extended import get_jwt_identity
from sqlalchemy import ForeignKey, String, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from backend.clock import utc_now
from backend.db import Base, db, transaction
from backend.errors import Conflict, InvalidInput
from backend.http.bodies import received
from backend.http.headers import honours

P = ParamSpec("P")

KEPT_FOR = timedelta(hours=24)
# A request that took longer than this died before it could answer, and changed nothing.
ABANDONED_AFTER = timedelta(minutes=10)
MAX_KEY_LENGTH = 255


class IdempotencyKey(Base):
    """A key that an owner sent to an address, with what it stands for and what was answered."""

    __tablename__ = "idempotency_keys"

    owner_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(MAX_KEY_LENGTH), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(index=True)
    status: Mapped[int | None]
    body: Mapped[dict[str, Any] | None]
    headers: Mapped[dict[str, Any] | None]

    def answer(self) -> Response:
        """The first answer again."""
        response = make_response(self.body, self.status)
        response.headers.update(self.headers or {})
        response.headers["Idempotency-Replayed"] = "true"
        return response


def idempotent(view: Callable[P, Any]) -> Callable[P, Any]:
    """Let a POST that makes something honour the Idempotency-Key header."""

    @wraps(view)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
        sent = request.headers.get("Idempotency-Key")
        if sent is None:
            return view(*args, **kwargs)
        record = _begin(sent)
        if record.status is not None:
            return record.answer()
        g.idempotency = record
        try:
            response = make_response(view(*args, **kwargs))
        except BaseException:
            _forget(record)
            raise
        with transaction() as session:
            remember(session, response.get_json(), response.status_code, _kept(response))
        return response

    return _documented(wrapper)


_documented = honours(
    "Idempotency-Key",
    "Makes the request safe to send again: the first answer is given again, nothing is done twice.",
    minLength=1,
    maxLength=MAX_KEY_LENGTH,
)


def remember(session: Session, body: dict[str, Any], status: int, headers: dict[str, str]) -> None:
    """Keep the answer in the transaction that does the work, so that both are there or neither."""
    record: IdempotencyKey | None = g.get("idempotency")
    if record is not None and record.status is None:
        record = session.merge(record)
        record.body, record.status, record.headers = body, status, headers
        g.idempotency = record


def forget_old(session: Session) -> int:
    """Remove keys older than a day; return how many."""
    stale = delete(IdempotencyKey).where(IdempotencyKey.created_at < utc_now() - KEPT_FOR)
    return session.execute(stale).rowcount  # type: ignore[attr-defined,no-any-return]


def _begin(key: str) -> IdempotencyKey:
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable():
        raise InvalidInput(
            f"Idempotency-Key: {len(key)} characters were sent;"
            f" 1 to {MAX_KEY_LENGTH} printable ones are accepted.",
            fields={"Idempotency-Key": [f"1 to {MAX_KEY_LENGTH} printable characters."]},
        )
    place = {"owner_id": int(get_jwt_identity()), "path": request.path[:255], "key": key}
    fingerprint = _fingerprint()
    try:
        with transaction() as session:
            record = IdempotencyKey(**place, fingerprint=fingerprint, created_at=utc_now())
            session.add(record)
    except IntegrityError:
        return _earlier(place, fingerprint)
    return record


def _earlier(place: dict[str, Any], fingerprint: str) -> IdempotencyKey:
    record = db.session.scalars(select(IdempotencyKey).filter_by(**place)).one_or_none()
    if record is None:
        raise Conflict(
            "The first request with this Idempotency-Key has just failed; send it again."
        )
    if record.fingerprint != fingerprint:
        raise InvalidInput(
            "This Idempotency-Key was sent before with another body; use a new key.",
            code="idempotency_key_reused",
        )
    if record.status is None and not _take_over(place):
        raise Conflict(
            "The first request with this Idempotency-Key is still under way.",
            code="idempotency_key_in_use",
            retry_after_seconds=2,
        )
    return record


def _take_over(place: dict[str, Any]) -> bool:
    """Whether the first request died long ago, and this one, of all that ask, stands in for it."""
    with transaction() as session:
        taken = session.execute(
            update(IdempotencyKey)
            .filter_by(**place)
            .where(
                IdempotencyKey.status.is_(None),
                IdempotencyKey.created_at < utc_now() - ABANDONED_AFTER,
            )
            .values(created_at=utc_now())
            .returning(IdempotencyKey.key)
        )
        return taken.first() is not None


def _forget(record: IdempotencyKey) -> None:
    db.session.rollback()
    with transaction() as session:
        session.execute(
            delete(IdempotencyKey).filter_by(
                owner_id=record.owner_id, path=record.path, key=record.key, status=None
            )
        )


def _kept(response: Response) -> dict[str, str]:
    """The headers that are given again with the first answer."""
    names = ("Location", "Retry-After")
    return {name: response.headers[name] for name in names if name in response.headers}


def _fingerprint() -> str:
    """The SHA-256 of what was asked: the raw body, or a form's fields and its files' contents."""
    if request.mimetype != "multipart/form-data":
        return received(request).sha256
    whole = hashlib.sha256()
    for name, value in sorted(request.form.items(multi=True)):
        whole.update(repr((name, value)).encode())
    for name, file in request.files.items(multi=True):
        content = hashlib.file_digest(file.stream, "sha256").hexdigest()  # type: ignore[arg-type]
        file.stream.seek(0)
        whole.update(repr((name, file.filename, content)).encode())
    return whole.hexdigest()
