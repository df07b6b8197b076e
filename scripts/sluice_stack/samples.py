"""The sample job: real PDFs through the running application, with a bar for each."""

from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from sluice_stack import ROOT, StackError

FILES = ("photo.pdf", "scan-gray.pdf", "scan-1bit.pdf", "office.pdf", "form.pdf")
FOLDER = ROOT / "tests/fixtures/pdf"
ENDED = {"completed", "failed", "cancelled"}


class SamplesFailed(StackError):
    """The sample job came to no good end; the message says how."""


def paths() -> list[Path]:
    """The sample PDFs, each of which gets smaller."""
    return [FOLDER / name for name in FILES if (FOLDER / name).exists()]


def run(client: httpx.Client, console: Console, archive: Path) -> None:
    """Compress the samples as the client's user, show how it goes, and keep the result."""
    status = _follow(client, _submit(client), console)
    console.print(_table(status))
    if status["status"] != "completed":
        raise SamplesFailed(f"{status['status']}: {status['error']}")
    with client.stream("GET", f"/api/compress/download/{status['job_id']}") as answer:
        answer.raise_for_status()
        archive.parent.mkdir(mode=0o700, exist_ok=True)
        archive.touch(mode=0o600)
        with archive.open("wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)


def _submit(client: httpx.Client) -> str:
    files = [("files", (path.name, path.read_bytes(), "application/pdf")) for path in paths()]
    job_id: str = _said(client.post("/api/compress/bulk", files=files))["job_id"]
    return job_id


def _follow(client: httpx.Client, job_id: str, console: Console) -> dict[str, Any]:
    """Show each file's progress until the batch has ended."""
    bars = Progress(
        TextColumn("{task.description:16}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
    )
    etag: str | None = None
    told: dict[str, str] = {}
    bars.disable = not console.is_terminal  # where nothing can move, each change is a line
    with bars:
        tasks = {
            name: bars.add_task(name, total=100, state="pending")
            for name in (path.name for path in paths())
        }
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            answer = client.get(f"/api/compress/jobs/{job_id}?wait=20", headers=headers)
            if answer.status_code == httpx.codes.NOT_MODIFIED:
                continue
            etag, status = answer.headers.get("ETag"), _said(answer)
            for file in status["files"]:
                bars.update(tasks[file["name"]], completed=file["percent"], state=file["status"])
                if not console.is_terminal and told.get(file["name"]) != file["status"]:
                    told[file["name"]] = file["status"]
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
        raise SamplesFailed(f"the application refused the samples: {said.get('error', said)}")
    return said
