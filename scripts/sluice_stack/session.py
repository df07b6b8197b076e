"""Bringing a stack up: settings, database, programs, log-in, samples, and where all of it is."""

import subprocess
import time

import httpx
from rich.console import Console

from sluice_stack import StackError, batches, database, environment, login, samples, supervisor
from sluice_stack.environment import Surroundings
from sluice_stack.folder import DataFolder
from sluice_stack.login import Login

SAMPLES_HINT = "scripts/up runs them again when that file is gone"


def bring_up(
    folder: DataFolder, port: int, *, lock: int, with_samples: bool, console: Console
) -> subprocess.Popen[bytes]:
    """Start everything and return supervisord once all is ready; StackError when it cannot be."""
    began = time.monotonic()
    folder.lay_out()
    surroundings = environment.prepare(folder, port)
    server = surroundings.server
    broker = f"{server.title} of {server.program.name}" if server else "as the settings say"
    console.print(f"Data in {folder.path}, broker {broker}")
    if not database.is_current(surroundings.settings):
        console.print("Bringing the database up to date")
        database.upgrade(surroundings)
    console.print("Starting the web server, the workers and beat")
    process = supervisor.start(folder, surroundings, lock)
    url = f"http://{environment.HOST}:{port}"
    # No proxy of the environment stands between this machine and itself.
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        supervisor.wait_until_ready(folder, process, client)
        account = login.keep(folder, url)
        try:
            refusal = login.sign_in(client, account, surroundings)
        except httpx.HTTPError as error:
            raise StackError(f"The log-in could not be tried: {error}") from None
        console.print(f"Ready after {time.monotonic() - began:.1f} s")
        if with_samples and not refusal:
            _show_samples(client, console, folder)
        login.sign_out(client)
    _say_where(console, folder, surroundings, account, refusal)
    return process


def _show_samples(client: httpx.Client, console: Console, folder: DataFolder) -> None:
    archive = folder.samples / "compressed.zip"
    if archive.exists():
        console.print(f"The sample jobs ran before: {archive}; {SAMPLES_HINT}")
        return
    if not samples.paths():
        console.print(f"No sample jobs: there are no PDFs in {samples.FOLDER}")
        return
    console.print("\nSample jobs: compressing five PDFs")
    try:
        batches.compress(client, console, samples.paths(), {}, archive)
        console.print(f"The copies are in {archive}")
    except batches.BatchFailed as error:
        console.print(f"The sample jobs failed: {error}")


def _say_where(
    console: Console,
    folder: DataFolder,
    surroundings: Surroundings,
    account: Login,
    refusal: str | None,
) -> None:
    rows = {
        "address": account.url,
        "API": f"{account.url}/api/docs",
        "log-in": f"{account.email}  {account.password}",
        "kept in": str(folder.login),
        "logs": str(folder.logs),
    }
    console.print("\nSluice is up")
    for name, value in rows.items():
        console.print(f"  {name:<9}{value}")
    if refusal:
        console.print(f"  The log-in does not work: {refusal}")
