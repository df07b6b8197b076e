"""What every request gets: an id, a log line, limits on its body, and headers on its answer."""

import re
import socket
import ssl
import time
from typing import IO

import structlog
from flask import Flask, Response, current_app, g, request
from uuid_utils import uuid7
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix

from backend.config import Settings
from backend.http.bodies import close_body
from backend.http.problems import problem

log = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def register_requests(app: Flask, settings: Settings) -> None:
    """Install the hooks around every request."""
    # Multipart bodies: the form parser's own bounds, so that a flood of parts is refused early.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.config["MAX_FORM_PARTS"] = 2 * settings.max_batch_files + 50
    app.config["MAX_FORM_MEMORY_SIZE"] = 1024 * 1024
    if settings.trusted_proxies:
        hops = settings.trusted_proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    app.before_request(_begin)
    app.before_request(_refuse_encoded)
    app.before_request(_watch_body)
    app.after_request(_end)
    app.teardown_request(close_body)
    app.register_error_handler(RequestEntityTooLarge, _too_large)


def _begin() -> None:
    sent = request.headers.get("X-Request-ID", "")
    # A caller's id is kept when it is plain, so that its logs and ours can be joined.
    g.request_id = sent if REQUEST_ID.fullmatch(sent) else uuid7().hex
    started = time.perf_counter()
    g.elapsed_seconds = lambda: time.perf_counter() - started
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _refuse_encoded() -> None:
    coding = request.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding: {coding[:40]!a} is not accepted; send the body as it is."
        )


class _Body:
    """The server's input. Servers have errors of their own for a body that is badly framed."""

    def __init__(self, sent: IO[bytes]) -> None:
        self._sent = sent

    def read(self, size: int = -1) -> bytes:
        try:
            return self._sent.read(size)
        except Exception as error:
            raise OSError("the body breaks off") from error  # werkzeug answers it with 400


def _watch_body() -> None:
    """See to it that a body which ends before its Content-Length is known to be cut off."""
    request.environ["wsgi.input"] = _Body(request.environ["wsgi.input"])
    if request.content_length is not None:
        # With this, werkzeug would take any end for the right one.
        request.environ.pop("wsgi.input_terminated", None)


def caller_has_gone() -> bool:
    """Whether the caller of the current request has closed the connection.

    Asked during an answer that waits: a write would tell, but only at the second one. Servers
    that do not hand out their connection, and TLS in this process, leave it unknown.
    """
    connection = request.environ.get("gunicorn.socket")
    if not isinstance(connection, socket.socket) or isinstance(connection, ssl.SSLSocket):
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def may_take_over() -> bool:
    """Whether the answer to the current request can take its connection along.

    Not through TLS in this process, nor where other answers share the connection (HTTP/2).
    """
    connection = request.environ.get("gunicorn.socket")
    return (
        type(connection) is socket.socket
        and request.environ["SERVER_PROTOCOL"] in {"HTTP/1.0", "HTTP/1.1"}
        and request.method == "GET"
    )


def take_over() -> socket.socket:
    """Take the current request's connection from the server, which does nothing more with it.

    The server must know of it: see `LettingGo` in deploy/gunicorn.conf.py.
    """
    connection: socket.socket = request.environ["gunicorn.socket"]
    return socket.socket(fileno=connection.detach())


def _too_large(_: RequestEntityTooLarge) -> Response:
    """Which of the form parser's bounds was passed is not told; so all are named."""
    sent = f"{request.content_length} bytes" if request.content_length else "more"
    limits = current_app.config
    return problem(
        413,
        f"The request has {sent}; accepted are at most {limits['MAX_CONTENT_LENGTH']} bytes, of"
        f" these {limits['MAX_FORM_MEMORY_SIZE']} of text fields, in {limits['MAX_FORM_PARTS']}"
        f" parts with {limits['SLUICE'].max_batch_files} files.",
        code="too_large",
    )


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.get("request_id", "")
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.path.startswith("/api/"):
        response.headers.setdefault("Cache-Control", "no-store")
    log.info(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        duration_seconds=round(g.elapsed_seconds(), 4),
    )
    return response
