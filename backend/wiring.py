"""The table of contents: everything that the application is made of, as plain tuples."""

from collections.abc import Callable
from typing import Any

import click
from flask import Flask

from backend.accounts import commands as accounts_commands
from backend.accounts import routes as accounts_routes
from backend.accounts.guards import configure_accounts
from backend.compression import commands as compression_commands
from backend.compression import jobs as compression_jobs
from backend.compression import routes as compression_routes
from backend.config import Settings
from backend.documents import routes as documents_routes
from backend.http.api import Blueprint
from backend.jobs import Schedule, duties
from backend.jobs import admin as jobs_admin
from backend.jobs import commands as jobs_commands
from backend.jobs import routes as jobs_routes
from backend.jobs.celery_bridge import connect_broker
from backend.jobs.kinds import JobKind
from backend.jobs.live import connect_live
from backend.jobs.relay import connect_relay
from backend.ops import commands as ops_commands
from backend.ops import routes as ops_routes
from backend.ops.metrics import count_requests
from backend.storage.uploads import receive_uploads

EXTENSIONS: tuple[Callable[[Flask, Settings], None], ...] = (
    configure_accounts,
    receive_uploads,
    connect_broker,
    connect_live,
    connect_relay,
    count_requests,
)

BLUEPRINTS: tuple[Blueprint, ...] = (
    accounts_routes.blueprint,
    jobs_routes.blueprint,
    jobs_admin.blueprint,
    documents_routes.blueprint,
    compression_routes.blueprint,
    ops_routes.blueprint,
)

JOB_KINDS: tuple[JobKind[..., Any], ...] = (
    duties.clean_up,
    compression_jobs.compress_file,
    compression_jobs.compress_bulk,
)

SCHEDULES: tuple[Schedule, ...] = (duties.HOURLY_CLEAN_UP,)

COMMANDS: tuple[click.Command, ...] = (
    accounts_commands.users,
    ops_commands.jobs,
    jobs_commands.queues,
    jobs_commands.kinds,
    jobs_commands.workers,
    compression_commands.compress_command,
)
