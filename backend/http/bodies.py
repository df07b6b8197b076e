"""Bodies of requests as they arrive: JSON to the letter, and of its files nothing held in memory.

Clients may send files as base64 inside JSON. So where a view takes files, long strings go to a
temporary file while the body arrives, and a `LongText` stands in their place.
"""

import hashlib
import io
import json
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, NoReturn, TypeVar

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from backend.config import KIB, MIB, Settings
from backend.errors import BadRequest, InvalidInput, TooLarge, Unavailable

View = TypeVar("View", bound=Callable[..., Any])

# No database column can hold these, so no text may bring them in.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
ESCAPED_UNSTORABLE = re.compile(rb"\\u(0000|[dD][89a-fA-F])")
MOST_DIGITS = 1000
LONGEST_IN_MEMORY = 4 * KIB  # of a string, in bytes, where a view takes files
CHUNK_BYTES = 64 * KIB
PIECE_BYTES = MIB  # a multiple of four, as base64 has its groups
REST_OF_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
PLACE = "sluice.body"


@dataclass(frozen=True, slots=True)
class LongText:
    """A long string of a JSON body, in UTF-8. Of its escapes only that of a slash is resolved."""

    file: IO[bytes]
    start: int
    size_bytes: int

    @classmethod
    def of(cls, text: str) -> "LongText":
        """Make one of a string that was short."""
        content = text.encode(errors="replace")
        return cls(io.BytesIO(content), 0, len(content))

    def pieces(self) -> Iterator[bytes]:
        """Yield it, a piece at a time."""
        for offset in range(0, self.size_bytes, PIECE_BYTES):
            yield self._read(offset, min(PIECE_BYTES, self.size_bytes - offset))

    def ends(self) -> bytes:
        """Return its last two bytes."""
        return self._read(max(0, self.size_bytes - 2), 2)

    def _read(self, offset: int, most: int) -> bytes:
        self.file.seek(self.start + offset)
        return self.file.read(min(most, self.size_bytes - offset))


@dataclass(slots=True)
class Body:
    """What was received of a request that is no form."""

    text: bytes = b""
    sha256: str = ""  # of all of it, as it was sent
    file: IO[bytes] | None = None
    long_texts: tuple[LongText, ...] = ()
    mark: str = ""  # with a number after it, a long text's name in `text`

    def json(self) -> Any:
        """The value; raises BadRequest for what is not JSON, InvalidInput for unstorable text."""
        try:
            value = strict_json(self.text)
        except RecursionError:
            raise BadRequest("The JSON body is nested too deeply.") from None
        except ValueError as error:
            raise BadRequest(f"The body is not JSON: {error}.", code="invalid_json") from None
        if ESCAPED_UNSTORABLE.search(self.text):
            refuse_unstorable(value)
        return self._with_long_texts(value) if self.long_texts else value

    def _with_long_texts(self, value: Any) -> Any:
        if isinstance(value, dict):
            if any(name.startswith(self.mark) for name in value):
                raise BadRequest(f"A member's name has over {LONGEST_IN_MEMORY} bytes.")
            return {name: self._with_long_texts(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._with_long_texts(inner) for inner in value]
        if isinstance(value, str) and value.startswith(self.mark):
            return self.long_texts[int(value.removeprefix(self.mark))]
        return value


def takes_files(view: View) -> View:
    """Let a view's JSON bodies be as large as forms: their long strings never are in memory."""
    view.takes_files = True  # type: ignore[attr-defined] # `received` finds it by the endpoint
    return view


def received(req: flask.Request) -> Body:
    """The body of a request that is no form, read once; TooLarge over the limits."""
    if PLACE not in req.environ:
        view = flask.current_app.view_functions.get(req.endpoint or "")
        read = _read_with_files if getattr(view, "takes_files", False) else _read
        req.environ[PLACE] = read(req)
    found: Body = req.environ[PLACE]
    return found


def close_body(_error: BaseException | None = None) -> None:
    """Remove what the current request's body has put on the disk."""
    body: Body | None = flask.request.environ.pop(PLACE, None)
    if body is not None and body.file is not None:
        body.file.close()


def _read(req: flask.Request) -> Body:
    req.max_content_length = limit = _settings().max_json_bytes
    try:
        text = req.get_data(cache=True)
    except RequestEntityTooLarge:
        raise _too_large(req, limit) from None
    # Of a body of unknown length werkzeug reads so much, and does not say whether there is more.
    if req.content_length is None and len(text) >= limit:
        raise _too_large(req, limit)
    return Body(text, hashlib.sha256(text).hexdigest())


def _read_with_files(req: flask.Request) -> Body:
    settings = _settings()
    folder = settings.workspaces
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Without a name on the disk from its beginning, so that a crash leaves nothing.
    body = Body(file=tempfile.TemporaryFile(dir=folder), mark=f"\ue000{secrets.token_hex(16)} ")  # noqa: SIM115 - closed by `close_body`
    req.environ[PLACE] = body
    splitter, whole, size = _Splitter(body, settings.max_json_bytes), hashlib.sha256(), 0
    while chunk := req.stream.read(CHUNK_BYTES):
        whole.update(chunk)
        size += len(chunk)
        if size >= settings.max_request_bytes and req.content_length is None:
            raise _too_large(req, settings.max_request_bytes)
        if not splitter.feed(chunk):
            raise _too_large(req, settings.max_json_bytes, " besides its files")
    body.text, body.sha256 = splitter.end(), whole.hexdigest()
    body.long_texts = tuple(splitter.long_texts)
    return body


class _Splitter:
    """Copies JSON, and puts each long string into the body's file and its name in its place.

    It knows of JSON only where strings begin and end; what is none is found by the parser.
    """

    def __init__(self, body: Body, most_bytes: int) -> None:
        self._body = body
        self._most_bytes = most_bytes
        self._text = bytearray()
        self._string: bytearray | None = None  # what was read of the present string
        self._carry = b""  # a backslash whose other half is in the next chunk
        self._written = 0
        self._start: int | None = None  # of the present string in the file, once it is long
        self.long_texts: list[LongText] = []

    def feed(self, chunk: bytes) -> bool:
        """Take a chunk; False when too much would stay in memory."""
        chunk, at = self._carry + chunk, 0
        self._carry = b""
        while at < len(chunk):
            at = self._outside(chunk, at) if self._string is None else self._inside(chunk, at)
        return len(self._text) <= self._most_bytes

    def end(self) -> bytes:
        """All but the long strings."""
        if self._string is not None:  # it never ended: the parser says so
            self._text += b'"' + self._string + self._carry
        return bytes(self._text)

    def _outside(self, chunk: bytes, at: int) -> int:
        quote = chunk.find(b'"', at)
        if quote < 0:
            self._text += chunk[at:]
            return len(chunk)
        self._text += chunk[at:quote]
        self._string = bytearray()
        return quote + 1

    def _inside(self, chunk: bytes, at: int) -> int:
        match = REST_OF_STRING.match(chunk, at)
        end = match.end() if match else at
        self._add(chunk[at:end])
        if end == len(chunk):
            return end
        if chunk[end : end + 1] == b"\\":
            self._carry = chunk[end:]
            return len(chunk)
        self._close()
        return end + 1

    def _add(self, part: bytes) -> None:
        if self._string is None:
            return
        # Some clients write "\\/" for "/", which base64 is full of.
        self._string += part.replace(b"\\/", b"/")
        if self._start is None and len(self._string) > LONGEST_IN_MEMORY:
            self._start = self._written
        if self._start is not None:
            self._write(self._string)
            self._string.clear()

    def _close(self) -> None:
        if self._string is None or self._body.file is None:
            return
        if self._start is None:
            self._text += b'"' + self._string + b'"'
        else:
            name = f'"{self._body.mark}{len(self.long_texts)}"'
            self._text += name.encode()
            size = self._written - self._start
            self.long_texts.append(LongText(self._body.file, self._start, size))
        self._string = self._start = None

    def _write(self, part: bytearray) -> None:
        try:
            if self._body.file is not None:
                self._written += self._body.file.write(part)
        except OSError as error:
            raise Unavailable(
                "There is no room for uploads just now. Try again in a moment."
            ) from error


def _too_large(req: flask.Request, limit: int, what: str = "") -> TooLarge:
    sent = f"{req.content_length} bytes" if req.content_length else "more"
    return TooLarge(
        f"The JSON body has {sent}; at most {limit} bytes are accepted{what}."
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


def _settings() -> Settings:
    found: Settings = flask.current_app.config["SLUICE"]
    return found
