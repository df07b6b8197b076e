"""The web server: gunicorn's threads behind a proxy, with every number from the settings.

Started from the project's root: `gunicorn -c deploy/gunicorn.conf.py app_v2:app`.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from backend.config import load_settings


class LettingGo(ThreadWorker):
    """gthread, of which an answer may take its connection along: then nothing is left to close."""

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Close the connection, or keep it for the next request, if it is still here."""
        if conn.sock.fileno() < 0:
            self.nr_conns -= 1
        else:
            super().finish_request(conn, fs)


DESCRIPTORS = 2048  # of a worker that has no streams; gunicorn lets in 1000 other connections

settings = load_settings()
metrics_dir = settings.prometheus_multiproc_dir

os.umask(0o077)

bind = settings.web_bind
workers = settings.web_workers
worker_class = LettingGo
threads = settings.web_threads
umask = 0o077
preload_app = False  # so that HUP gives new code to new workers while the old ones finish
graceful_timeout = 20
timeout = 60
keepalive = 75  # longer than the proxy keeps an idle connection, so that the proxy closes first
accesslog = None  # the app logs each request, with its ids
forwarder_headers = ""  # no caller says under which path the application is mounted
forwarded_allow_ips = "127.0.0.1,::1"  # peers on a unix socket are trusted as well
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108  heartbeats are written every second: not to a disk


# A HUP reads this file anew and forks workers from this process: what it has loaded of the
# application must not come along, or new workers would run old code.
for name in [name for name in sys.modules if name.partition(".")[0] == "backend"]:
    del sys.modules[name]


def write_error(connection: Any, status: int, reason: str, message: str) -> None:
    """Answer what never reached the application with a problem document too."""
    from backend.http.problems import MEDIA_TYPE, members

    status = HTTPStatus(status)
    detail = f"The request cannot be read: {message or status.phrase}."
    body = json.dumps(members(status, detail, status.name.lower(), {}, "")).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(connection, head.encode() + body)


util.write_error = write_error  # gunicorn has no setting for it


def post_fork(server: Any, worker: Any) -> None:
    """Have the kernel tell a worker when its master was killed, so that it lets the port go.

    And let it have a descriptor for each stream, whatever little the shell allows at first.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_streams + DESCRIPTORS
    if resource.RLIM_INFINITY != now < wanted:
        wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG (prctl(2))


def post_worker_init(worker: Any) -> None:
    """Hand over the streams, and let those who wait go as soon as the worker is told to end."""
    extensions = getattr(worker.wsgi, "extensions", {})
    if "sluice.hub" in extensions:  # another application behind this configuration has none
        extensions["sluice.hub"].is_stopping = lambda: not worker.alive
        extensions["sluice.relay"].is_served = True


def on_starting(server: Any) -> None:
    """Make the folder of the processes' counters; prometheus_client expects it to be there."""
    if metrics_dir:
        Path(metrics_dir).mkdir(mode=0o700, parents=True, exist_ok=True)


def child_exit(server: Any, worker: Any) -> None:
    """Drop the gauges of a worker that has ended; its counters go on counting."""
    if metrics_dir:
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)
