"""Start and stop the whole application on one machine; scripts/up and scripts/down run this."""

import json
import os
import shlex
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sluice_stack import ROOT, StackError, processes, supervisor
from sluice_stack.environment import HOST
from sluice_stack.folder import DataFolder
from sluice_stack.session import bring_up

GRACE_SECONDS = 60.0  # for jobs that run: a worker's grace, and supervisord's patience beyond it

console = Console(highlight=False, soft_wrap=True)
data_option = click.option(
    "--data",
    default="var",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for everything that is kept.",
)


@click.group()
def main() -> None:
    """Run Sluice on one machine."""


@main.command()
@click.option("--port", default=5003, show_default=True, type=click.IntRange(1, 65535))
@data_option
@click.option("--no-samples", is_flag=True, help="Do not compress the sample PDFs.")
@click.option("--detach", is_flag=True, help="Return once everything runs.")
def up(port: int, data: Path, no_samples: bool, detach: bool) -> None:
    """Start everything, compress the sample PDFs, and stay until Ctrl-C."""
    os.umask(0o077)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = DataFolder(data.resolve())
    lock = folder.claim()
    if lock is None:
        raise StackError(_already(folder))
    _end(folder)  # what an earlier start has left behind
    _refuse_taken(port)
    try:
        supervisord = bring_up(
            folder, port, lock=lock, with_samples=not no_samples, console=console
        )
        os.close(lock)
        if detach:
            console.print(f"  stop     ./scripts/down{_data_option(folder)}")
            return
        console.print("  stop     Ctrl-C")
        supervisord.wait()
    except KeyboardInterrupt:
        console.print("\nStopping")
        _end(folder)
        console.print("Stopped")
    except BaseException:
        _end(folder)
        raise
    else:
        log = supervisor.tail(folder.logs / "supervisord.log")
        raise StackError("supervisord has ended." + log)


@main.command()
@data_option
def down(data: Path) -> None:
    """Stop what `up` has started on a data folder."""
    folder, began = DataFolder(data.resolve()), time.monotonic()
    ended = _end(folder)
    if ended:
        console.print(f"Stopped {ended} processes in {time.monotonic() - began:.1f} s")
    else:
        console.print(f"Nothing runs on {folder.path}")


def _end(folder: DataFolder) -> int:
    return processes.end(folder.path, GRACE_SECONDS, lambda: supervisor.states(folder))


def _already(folder: DataFolder) -> str:
    where = ""
    with suppress(OSError, ValueError, KeyError):
        where = f" at {json.loads(folder.login.read_text())['url']}"
    return (
        f"It is running already{where}, with its data in {folder.path}."
        f" ./scripts/down{_data_option(folder)} stops it."
    )


def _data_option(folder: DataFolder) -> str:
    return "" if folder.path == ROOT / "var" else f" --data {shlex.quote(str(folder.path))}"


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StackError(
                f"Port {port} cannot be used ({error.strerror}); name another with --port."
            ) from None


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StackError as error:
        print(f"scripts/up: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"scripts/up: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
