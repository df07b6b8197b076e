"""The settings of a stack: what the user has set, what the data folder adds, and who reads it."""

import os
import secrets
import sys
from dataclasses import dataclass

from backend.config import Settings, SettingsError, load_settings
from sluice_stack import ROOT, StackError, broker, processes
from sluice_stack.folder import DataFolder

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Surroundings:
    """What the programs are started with."""

    settings: Settings
    server: broker.Server | None  # the broker that we start; None where the settings name one
    variables: dict[str, str]


def prepare(folder: DataFolder, port: int) -> Surroundings:
    """Write `sluice.env` and read the settings as the programs will; StackError for a wrong one."""
    kept = folder.read()
    ours = {
        "SECRET_KEY": kept.get("SECRET_KEY") or secrets.token_urlsafe(48),
        "DATA_DIR": str(folder.path),
        "WEB_BIND": f"{HOST}:{port}",
    }
    environment = os.environ  # noqa: TID251 - the programs get what the caller's shell has set
    # These two are asked for by the options, and outweigh .env.
    environment |= {"DATA_DIR": ours["DATA_DIR"], "WEB_BIND": ours["WEB_BIND"]}
    folder.write(ours)
    settings = _load()
    server = None
    if not (settings.celery_broker_url or settings.redis_url or settings.redis_host):
        server = broker.find_server()
        folder.write({**ours, "REDIS_URL": broker.address(folder.sockets)})
        settings = _load()
    variables = {
        "PROMETHEUS_MULTIPROC_DIR": str(folder.metrics),
        **environment,
        processes.MARK: str(folder.path),
        "SLUICE_HOME": str(ROOT),
        "SLUICE_VENV": sys.prefix,
        "SLUICE_LOGS": str(folder.logs),
        "SLUICE_DATA": str(folder.path),
        "SLUICE_SOCKETS": str(folder.sockets),
        "SLUICE_BROKER": str(server.program) if server else "",
        "HIGH_SLOTS": str(settings.high_slots),
        "DEFAULT_SLOTS": str(settings.default_slots),
        "LOW_SLOTS": str(settings.low_slots),
    }
    return Surroundings(settings, server, variables)


def _load() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        raise StackError(str(error)) from None
