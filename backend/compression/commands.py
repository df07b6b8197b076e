"""The command that compresses a file without any server: `flask --app app_v2 compress …`."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from backend.compression.engine import (
    DEFAULT_QUALITY,
    Level,
    Receipt,
    SignedPolicy,
    compress,
)
from backend.errors import AppError

_PARTS = ("images", "fonts", "content", "attachments", "structure")
_COUNTS = {
    "pages": "pages",
    "links": "links",
    "annotations": "annotations",
    "outline": "bookmarks",
    "form_fields": "form fields",
    "xfa": "XFA form",
    "tags": "tags",
    "language": "language",
    "layers": "layers",
    "destinations": "destinations",
    "attachments": "attachments",
    "metadata": "metadata entries",
    "signed": "signed",
    "encrypted": "encrypted",
    "pdfa": "PDF/A",
    "pdfua": "PDF/UA",
}


@click.command("compress")
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--level",
    type=click.Choice([level.value for level in Level]),
    default=Level.MEDIUM.value,
    show_default=True,
)
@click.option(
    "--image-quality", type=click.IntRange(1, 100), default=DEFAULT_QUALITY, show_default=True
)
@click.option(
    "--target-bytes", type=click.IntRange(min=1), help="The gentlest level that gives no more."
)
@click.option(
    "--signed",
    type=click.Choice([policy.value for policy in SignedPolicy]),
    default=SignedPolicy.SKIP.value,
    show_default=True,
    help="What to do with a signed PDF.",
)
@click.option("--attachments", is_flag=True, help="Compress attached PDFs too.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--receipt", is_flag=True, help="Print what was done, and how that was checked.")
@click.option("--json", "as_json", is_flag=True, help="Print the receipt as JSON.")
def compress_command(
    source: Path,
    target: Path,
    level: str,
    image_quality: int,
    target_bytes: int | None,
    signed: str,
    attachments: bool,
    password_stdin: bool,
    receipt: bool,
    as_json: bool,
) -> None:
    """Compress the PDF SOURCE and write it to TARGET; needs no server."""
    if not target.parent.is_dir():
        raise click.ClickException(f"There is no folder {target.parent} to write {target.name} to.")
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.disable = not bar.console.is_terminal
    try:
        with bar:
            task = bar.add_task(source.name, total=1.0)
            done = compress(
                source,
                target,
                level=Level(level),
                image_quality=image_quality,
                target_bytes=target_bytes,
                password=password,
                signed=SignedPolicy(signed),
                attachments=attachments,
                progress=lambda fraction: bar.update(task, completed=fraction),
            )
    except AppError as error:
        raise click.ClickException(f"{source}: {error.detail}") from None
    if as_json:
        click.echo(json.dumps(done.as_dict(), indent=2))
        return
    click.echo(f"{source.name}: {_sentence(done)}")
    if receipt:
        _print(done)


def _sentence(done: Receipt) -> str:
    note = f" {done.note}" if done.note else ""
    if not done.changed:
        return f"{_kilobytes(done.original_bytes)}, kept.{note}"
    saved = 1 - done.compressed_bytes / done.original_bytes
    sizes = f"{_kilobytes(done.original_bytes)} to {_kilobytes(done.compressed_bytes)}"
    return f"{sizes}, {saved:.0%} less, at the level {done.level}.{note}"


def _print(done: Receipt) -> None:
    console = Console(highlight=False, soft_wrap=True)
    said = done.as_dict()
    before, after = said["before"], said["after"]
    table = Table("", "before", "after")
    for column in table.columns[1:]:
        column.justify = "right"
    for part in _PARTS:
        table.add_row(part, *(_kilobytes(each["sizes"][part]) for each in (before, after)))
    table.add_section()
    for name, title in _COUNTS.items():
        if before[name] or after[name]:
            table.add_row(title, _word(before[name]), _word(after[name]))
    console.print(table)
    if done.comparison is not None and done.comparison.worst is not None:
        seen = said["similarity"]
        console.print(
            f"{seen['pages_compared']} of {before['pages']} pages rendered and compared:"
            f" similarity {seen['mean']:.4f} in the mean, {seen['worst']:.4f} at worst"
            f" (page {done.comparison.worst_page}); text"
            f" {'equal' if seen['text_equal'] else 'not equal'}."
        )
    for title, sentences in (("Done", said["done"]), ("Left", said["left"])):
        for sentence in sentences:
            console.print(f"  {title}: {sentence}")


def _kilobytes(size: int) -> str:
    return f"{size / 1000:.0f} kB" if size >= 10_000 else f"{size} bytes"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value or "-")
