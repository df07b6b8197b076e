"""JSON bodies with files in them: read to the letter, wherever they are cut, and never whole."""

import base64
import io
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import flask
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import create_environ

from backend.config import MIB, Settings
from backend.errors import BadRequest, TooLarge, Unavailable
from backend.http import bodies
from backend.http.bodies import LongText, close_body, received, takes_files


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> flask.Flask:
    """An application with one view that takes files."""
    app = flask.Flask(__name__)
    app.config["SLUICE"] = Settings(
        _env_file=None,
        data_dir=tmp_path_factory.mktemp("data"),
        max_json_bytes=MIB,
        max_request_bytes=64 * MIB,
    )
    app.add_url_rule("/", "take", takes_files(lambda: ""), methods=["POST"])
    app.teardown_request(close_body)
    return app


class Trickle(io.RawIOBase):
    """A connection over which so many bytes come at a time."""

    def __init__(self, content: bytes, at_once: int) -> None:
        self._content, self._at_once = io.BytesIO(content), at_once

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._content.read(min(len(buffer), self._at_once))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def read(app: flask.Flask, raw: bytes, at_once: int = 1 << 20) -> Any:
    """The value of a body, its long texts as strings again."""
    with sent(app, Trickle(raw, at_once), len(raw)):
        return whole(received(flask.request).json())


def sent(app: flask.Flask, content: io.RawIOBase, size_bytes: int) -> AbstractContextManager[Any]:
    """A request with a JSON body."""
    environ = create_environ("/", method="POST", content_type="application/json")
    environ |= {"wsgi.input": content, "CONTENT_LENGTH": str(size_bytes)}
    return app.request_context(environ)


def whole(value: Any) -> Any:
    if isinstance(value, LongText):
        return b"".join(value.pieces()).decode()
    if isinstance(value, dict):
        return {name: whole(inner) for name, inner in value.items()}
    return [whole(inner) for inner in value] if isinstance(value, list) else value


LONG = "long " * 2000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))),
    at_once=st.integers(1, 40),
)
def test_a_body_reads_the_same_wherever_it_is_cut(
    app: flask.Flask, texts: list[str], at_once: int
) -> None:
    value = {"texts": texts, "long": LONG, "last": {"quote": '"', "slash": "\\"}}
    assert read(app, json.dumps(value).encode(), at_once) == value
    assert read(app, json.dumps(value, ensure_ascii=False).encode(), at_once) == value


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 4096, 1 << 20])
def test_slashes_may_be_written_with_a_backslash(app: flask.Flask, at_once: int) -> None:
    text = "ab/+" * 3000
    raw = json.dumps({"content": text}).replace("/", "\\/").encode()
    assert read(app, raw, at_once) == {"content": text}


def test_a_long_text_is_as_long_as_its_bytes(app: flask.Flask) -> None:
    raw = json.dumps([LONG]).encode()
    with app.test_request_context("/", method="POST", data=raw, content_type="application/json"):
        (text,) = received(flask.request).json()
        assert (text.size_bytes, text.ends()) == (len(LONG), b"g ")
    assert LongText.of("").ends() == b""


@pytest.mark.parametrize(
    "raw",
    [
        b'{"content": "' + b"A" * 10_000,
        b'{"content": "' + b"A" * 10_000 + b"\\",
        b'{"content": "' + b"A" * 10_000 + b'"',
        b'"' + b"A" * 10_000 + b'" "b"',
        b'{"' + b"A" * 10_000 + b'": 1}',
        b'["\xff"]',
        b"",
        b'"',
    ],
    ids=["open", "backslash", "no brace", "two values", "long name", "no UTF-8", "none", "quote"],
)
def test_what_is_no_json_is_refused(app: flask.Flask, raw: bytes) -> None:
    with pytest.raises(BadRequest):
        read(app, raw)


def test_a_name_that_looks_like_a_long_texts_is_a_text(app: flask.Flask) -> None:
    value = ["\ue000" + "0" * 32 + " 0", LONG]
    assert read(app, json.dumps(value).encode()) == value


def test_what_is_no_file_is_limited(app: flask.Flask) -> None:
    with pytest.raises(TooLarge, match=rf"at most {MIB} bytes are accepted besides its files"):
        read(app, b"[" + b"1," * MIB + b"1]")


def test_a_full_disk_is_unavailable(app: flask.Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, *_: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(bodies.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(Unavailable, match="no room"):
        read(app, json.dumps([LONG]).encode())


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_a_file_in_json_is_never_whole_in_memory(app: flask.Flask, traced: None) -> None:
    class Files(io.RawIOBase):
        """Sends a JSON body of 48 MiB that does not exist as a whole."""

        def __init__(self) -> None:
            self._parts = iter([b'{"content": "', *[b"A" * MIB] * 48, b'"}'])
            self._rest = b""

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self._rest = self._rest or next(self._parts, b"")
            chunk, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
            buffer[: len(chunk)] = chunk
            return len(chunk)

    with sent(app, Files(), 48 * MIB + 15):
        text = received(flask.request).json()["content"]
        assert sum(len(base64.b64decode(piece)) for piece in text.pieces()) == 36 * MIB
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB


def test_nothing_is_left_on_the_disk(app: flask.Flask) -> None:
    read(app, json.dumps([LONG]).encode())
    folder: Path = app.config["SLUICE"].workspaces
    assert [*folder.iterdir()] == []
