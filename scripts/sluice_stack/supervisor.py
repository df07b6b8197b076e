"""supervisord: its configuration, its start, and what it says of the programs."""

import http.client
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from xmlrpc.client import Error as RpcError
from xmlrpc.client import ServerProxy

import httpx
from supervisor.xmlrpc import SupervisorTransport

from sluice_stack import ROOT, StackError
from sluice_stack.environment import Surroundings
from sluice_stack.folder import DataFolder

READY_SECONDS = 90.0
TAIL_LINES = 15
UP = {"STARTING", "RUNNING"}

# Folders come from the environment: a path may hold what would be syntax in this file.
MAIN = """\
; Written by scripts/up at every start. The programs after the broker are those of
; deploy/supervisor/programs.conf, unchanged.

[supervisord]
nodaemon=true
silent=true
umask=077
minfds=4096
logfile=%(ENV_SLUICE_LOGS)s/supervisord.log
logfile_maxbytes=20MB
logfile_backups=5
childlogdir=%(ENV_SLUICE_LOGS)s
pidfile=%(ENV_SLUICE_SOCKETS)s/supervisord.pid

[unix_http_server]
file=%(ENV_SLUICE_SOCKETS)s/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""
BROKER = """
[program:broker]
; its title would overwrite the environment, by which scripts/down knows the process
command="%(ENV_SLUICE_BROKER)s" --port 0 --unixsocket "%(ENV_SLUICE_SOCKETS)s/broker.sock"
  --unixsocketperm 700 --dir "%(ENV_SLUICE_DATA)s/broker" --appendonly yes --save ""
  --maxmemory-policy noeviction --set-proc-title no
; first to start, last to stop
priority=1
umask=077
autorestart=true
startretries=100
redirect_stderr=true
stdout_logfile=%(ENV_SLUICE_LOGS)s/broker.log
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=5
"""


def start(folder: DataFolder, surroundings: Surroundings, lock: int) -> subprocess.Popen[bytes]:
    """Start supervisord, in a session of its own: the terminal's Ctrl-C does not reach it."""
    programs = (ROOT / "deploy/supervisor/programs.conf").read_text(encoding="utf-8")
    broker = BROKER if surroundings.server else ""
    folder.supervisor.write_text(f"{MAIN}{broker}\n{programs}", encoding="utf-8")
    with (folder.logs / "supervisord.out").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(folder.supervisor)],
            cwd=ROOT,
            env=surroundings.variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )


def wait_until_ready(
    folder: DataFolder, process: subprocess.Popen[bytes], client: httpx.Client
) -> None:
    """Return when /readyz says so and all programs run; StackError when one cannot."""
    until = time.monotonic() + READY_SECONDS
    ended: defaultdict[str, set[int]] = defaultdict(set)
    while True:
        if process.poll() is not None:
            raise StackError("supervisord has ended." + tail(folder.logs / "supervisord.out"))
        programs = states(folder)
        for program in programs:
            if program["statename"] in {"BACKOFF", "FATAL", "EXITED"}:
                ended[program["name"]].add(program["stop"] or program["start"])
                if program["statename"] == "FATAL" or len(ended[program["name"]]) > 1:
                    raise StackError(
                        f"{program['name']} ends as soon as it is started."
                        + tail(Path(program["stdout_logfile"]))
                    )
        missing = _missing(client)
        if programs and not missing and all(each["statename"] in UP for each in programs):
            return
        if time.monotonic() > until:
            raise StackError(
                f"Not ready after {READY_SECONDS:g} seconds: {missing}."
                + tail(folder.logs / "web.log")
            )
        time.sleep(0.1)


def states(folder: DataFolder) -> list[dict[str, Any]]:
    """Each program as supervisord sees it; nothing while supervisord does not answer."""
    socket = f"unix://{folder.sockets}/supervisor.sock"
    transport = SupervisorTransport(None, None, serverurl=socket)
    found: Any = []
    with suppress(OSError, http.client.HTTPException, RpcError):
        found = ServerProxy("http://127.0.0.1", transport=transport).supervisor.getAllProcessInfo()
    transport.close()
    return list(found)


def tail(log: Path) -> str:
    """The last lines of a log, to stand under a sentence."""
    with suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return f" The last lines of {log}:\n" + "\n".join(lines[-TAIL_LINES:])
    return ""


def _missing(client: httpx.Client) -> str:
    """What /readyz misses; empty when it is content."""
    try:
        answer = client.get("/readyz", timeout=5)
        if answer.status_code == httpx.codes.OK:
            return ""
        checks: Mapping[str, str] = answer.json()["checks"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return f"the web server does not answer ({type(error).__name__})"
    return "; ".join(f"{name}: {said}" for name, said in checks.items() if said != "ok")
