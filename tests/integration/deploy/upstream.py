"""A small application behind the proxy: it tells what reaches it, and when."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

released = threading.Event()
begun = threading.Event()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path.endswith("/events"):
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events()
    if path == "/release":
        released.set()
    if path == "/upload_file":
        begun.set()
    length = len(environ["wsgi.input"].read()) if path != "/begun" else 0
    seen = {name: value for name, value in environ.items() if name.startswith("HTTP_")}
    seen |= {"begun": begun.is_set(), "length": length, "scheme": environ["wsgi.url_scheme"]}
    start_response("200 OK", [("Content-Type", "application/json"), ("X-Frame-Options", "DENY")])
    return [json.dumps(seen).encode()]


def events() -> Iterator[bytes]:
    yield b"data: first\n\n"
    # The second goes out only when the reader of the first has asked for it.
    released.wait(20)
    yield b"data: second\n\n"
