"""The kinds of job: compress one file, and close a batch of them."""

import csv
import io
import zipfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from backend.compression import engine
from backend.compression.engine import Level, Receipt, SignedPolicy
from backend.compression.engine.caps import capped_memory
from backend.compression.schemas import CompressBulkParams, CompressFileParams
from backend.crypto import unseal
from backend.db import db
from backend.errors import Gone, InvalidInput
from backend.jobs import JobContext, Retry, artifacts, job, queries
from backend.jobs.models import Artifact, Job
from backend.jobs.states import JobState
from backend.storage import antivirus
from backend.storage import services as storage
from backend.storage.models import StoredFile
from backend.storage.names import unique_names

REPORT = "report.csv"
# The earliest time that ZIP can express: the same files give the same archive.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@job(
    "compression.compress_file",
    params=CompressFileParams,
    title="Compress a PDF",
    retry=Retry(attempts=3, delay=10),
    soft_limit=timedelta(minutes=5),
    hard_limit=timedelta(minutes=10),
    stages={"compress": 1},
)
def compress_file(
    ctx: JobContext,
    *,
    file_id: int,
    name: str,
    original_bytes: int,
    level: Level,
    image_quality: int,
    target_bytes: int | None,
    sealed_password: str | None,
    signed: SignedPolicy,
    compress_attachments: bool,
) -> dict[str, Any]:
    """Compress one stored PDF; the smaller copy becomes the job's artifact."""
    source, target = ctx.workspace / "source.pdf", ctx.workspace / "target.pdf"
    stored = db.session.get(StoredFile, file_id)
    if stored is None:
        raise Gone(f"{name} has expired; send it again.")
    storage.fetch(stored, source)
    db.session.commit()
    password = unseal(sealed_password) if sealed_password else None
    antivirus.scan_stored(source, name, password)

    def progress(fraction: float) -> None:
        ctx.check_cancelled()
        ctx.report(f"Compressing {name}…", fraction, "compress")

    with capped_memory():
        receipt = engine.compress(
            source,
            target,
            level=level,
            image_quality=image_quality,
            target_bytes=target_bytes,
            password=password,
            signed=signed,
            attachments=compress_attachments,
            progress=progress,
        )
    ctx.log(_sentence(name, receipt))
    ctx.publish(target, name, "application/pdf")
    return receipt.as_dict()


@job(
    "compression.compress_bulk",
    params=CompressBulkParams,
    title="Compress PDFs",
    retry=Retry(attempts=3, delay=10),
    soft_limit=timedelta(minutes=30),
    stages={"compress": 9, "bundle": 1},
)
def compress_bulk(ctx: JobContext, *, file_count: int) -> dict[str, Any]:
    """Close a batch: bundle the smaller copies and a report into one archive.

    A batch of one file hands on that file itself. Fails if no file could be compressed.
    """
    files = queries.children(db.session(), ctx.job_id)
    db.session.commit()  # what follows takes long
    done = [file for file in files if file.state == JobState.SUCCEEDED and file.artifacts]
    if not done:
        raise InvalidInput(_nothing_done(files), code="nothing_compressed")
    if file_count == 1:
        artifacts.hand_on(ctx, done[0].artifacts[0])
    else:
        path = ctx.workspace / "compressed.zip"
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            _bundle(ctx, archive, done, files)
        ctx.publish(path, "compressed.zip", "application/zip")
    return summary(files)


def summary(files: Sequence[Job]) -> dict[str, Any]:
    """The sums of a batch: of the sizes, only files that were compressed count."""
    receipts = [file.result for file in files if file.state == JobState.SUCCEEDED and file.result]
    return {
        "file_count": len(files),
        "compressed_count": len(receipts),
        "failed_count": sum(file.state == JobState.FAILED for file in files),
        "original_bytes": sum(receipt["original_bytes"] for receipt in receipts),
        "compressed_bytes": sum(receipt["compressed_bytes"] for receipt in receipts),
    }


def _bundle(
    ctx: JobContext, archive: zipfile.ZipFile, done: Sequence[Job], files: Sequence[Job]
) -> None:
    names = unique_names([REPORT, *(file.label for file in done)])[1:]
    _add(
        archive, REPORT, iter([_report(files, dict(zip((f.id for f in done), names, strict=True)))])
    )
    for name, file in ctx.track("bundle", list(zip(names, done, strict=True)), noun="file"):
        _add(archive, name, _content(file.artifacts[0]))


def _add(archive: zipfile.ZipFile, name: str, chunks: Iterator[bytes]) -> None:
    # Stored: a PDF's streams are compressed already.
    info = zipfile.ZipInfo(name, ZIP_EPOCH)
    info.external_attr = 0o644 << 16
    with archive.open(info, "w", force_zip64=True) as entry:
        for chunk in chunks:
            entry.write(chunk)


def _content(artifact: Artifact) -> Iterator[bytes]:
    if artifact.file is None:
        raise Gone(f"{artifact.name} has expired; compress it again.")
    return storage.open_range(artifact.file)


def _report(files: Sequence[Job], names: dict[Any, str]) -> bytes:
    """The report: one row a file, in UTF-8 with the mark that spreadsheets look for."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["name", "in_archive", "status", "original_bytes", "compressed_bytes", "note"])
    for file in files:
        receipt = file.result or {}
        rows.writerow(
            [
                _as_text(file.label),
                _as_text(names.get(file.id, "")),
                file.state,
                file.params["original_bytes"],
                receipt.get("compressed_bytes", ""),
                _as_text(file.error or receipt.get("note") or ""),
            ]
        )
    return b"\xef\xbb\xbf" + text.getvalue().encode()


def _as_text(cell: str) -> str:
    """A spreadsheet runs what begins like a formula (CWE-1236); an apostrophe makes it text."""
    return f"'{cell}" if cell[:1] in {"=", "+", "-", "@", "\t", "\r"} else cell


def _nothing_done(files: Sequence[Job]) -> str:
    if len(files) == 1 and files[0].error:
        return files[0].error
    return f"None of the {len(files)} files could be compressed."


def _sentence(name: str, receipt: Receipt) -> str:
    sizes = f"{receipt.original_bytes} bytes to {receipt.compressed_bytes}"
    note = f"; {receipt.note}" if receipt.note else ""
    return f"{name}: {sizes}, {receipt.images_recoded} of {receipt.images} images recoded{note}"
