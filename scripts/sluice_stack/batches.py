"""A batch of PDFs through the running application, with a bar for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from sluice_stack import StackError

ENDED = {"completed", "failed", "cancelled"}


class BatchFailed(StackError):
    """The batch came to no good end; the message says how."""


def compress(
    client: httpx.Client,
    console: Console,
    paths: Sequence[Path],
    settings: Mapping[str, str],
    archive: Path,
) -> dict[str, Any]:
    """Compress files as the client's user, show how it goes, and keep the result in `archive`.

    Returns the batch's status. Raises BatchFailed when it was refused, or nothing was compressed.
    """
    status = _follow(client, _submit(client, paths, settings), paths, console)
    console.print(_table(status))
    if status["status"] != "completed":
        raise BatchFailed(f"{status['status']}: {status['error']}")
    with client.stream("GET", f"/api/compress/download/{status['job_id']}") as answer:
        answer.raise_for_status()
        archive.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
        archive.touch(mode=0o600)
        with archive.open("wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)
    return status


def _submit(client: httpx.Client, paths: Sequence[Path], settings: Mapping[str, str]) -> str:
    files = [("files", (path.name, path.read_bytes(), "application/pdf")) for path in paths]
    answer = client.post("/api/compress/bulk", files=files, data=dict(settings))
    job_id: str = _said(answer)["job_id"]
    return job_id


def _follow(
    client: httpx.Client, job_id: str, paths: Sequence[Path], console: Console
) -> dict[str, Any]:
    """Show each file's progress until the batch has ended."""
    bars = Progress(
        TextColumn("{task.description:16}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
    )
    etag: str | None = None
    told: dict[int, str] = {}
    bars.disable = not console.is_terminal  # where nothing can move, each change is a line
    with bars:
        tasks = [bars.add_task(path.name, total=100, state="pending") for path in paths]
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            answer = client.get(f"/api/compress/jobs/{job_id}?wait=20", headers=headers)
            if answer.status_code == httpx.codes.NOT_MODIFIED:
                continue
            etag, status = answer.headers.get("ETag"), _said(answer)
            for task, file in zip(tasks, status["files"], strict=True):
                bars.update(task, completed=file["percent"], state=file["status"])
                if not console.is_terminal and told.get(task) != file["status"]:
                    told[task] = file["status"]
                    console.print(f"  {file['name']:16} {file['status']}")
            if status["status"] in ENDED:
                return status


def _table(status: dict[str, Any]) -> Table:
    table = Table("file", "before", "after", "saved", "note")
    for column in table.columns[1:4]:
        column.justify = "right"
    for file in status["files"]:
        after = file["compressed_bytes"]
        note = file["error"] or (file["receipt"] or {}).get("note") or ""
        table.add_row(file["name"], *_sizes(file["original_bytes"], after), note)
    table.add_section()
    table.add_row("together", *_sizes(status["original_bytes"], status["compressed_bytes"]), "")
    return table


def _sizes(before: int, after: int | None) -> tuple[str, str, str]:
    if after is None:
        return f"{before / 1000:.0f} kB", "", ""
    return (
        f"{before / 1000:.0f} kB",
        f"{after / 1000:.0f} kB",
        f"{100 * (1 - after / before):.0f} %",
    )


def _said(answer: httpx.Response) -> dict[str, Any]:
    said: dict[str, Any] = answer.json()
    if answer.is_error:
        raise BatchFailed(f"the application refused the files: {said.get('error', said)}")
    return said
