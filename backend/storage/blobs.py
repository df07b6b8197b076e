"""The blob store: contents by key, in a folder (file://) or a bucket (s3://), through obstore."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from flask import current_app
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

from backend.config import Settings
from backend.errors import Gone, Unavailable

CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob as a listing shows it."""

    key: str
    size_bytes: int
    modified_at: datetime


class BlobStore:
    """Contents by key. Whatever cannot be reached raises Unavailable, what is missing Gone."""

    def __init__(self, url: str, *, endpoint_url: str = "", region: str = "us-east-1") -> None:
        parts = urlsplit(url)
        self._root: Path | None = None
        if parts.scheme == "file":
            self._root = Path(unquote(parts.path))
            _make_private(self._root)
            self._store: Any = LocalStore(self._root, automatic_cleanup=True)
        else:
            options: dict[str, Any] = {"endpoint": endpoint_url} if endpoint_url else {}
            if endpoint_url.startswith("http://"):
                options["client_options"] = {"allow_http": True}
            self._store = S3Store.from_url(url, region=region, **options)

    def put(self, source: Path, key: str) -> None:
        """Store a local file's content under the key; the file stays where it is."""
        with _translated(key):
            if self._root is None:
                obstore.put(self._store, key, source)
            else:
                self._place(source, self._root / key)

    def _place(self, source: Path, target: Path) -> None:
        """Give the file a second name in the store, which costs no copy, or copy it."""
        _make_private(target.parent)
        fresh = target.with_name(f".{target.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            try:
                os.link(source, fresh)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, fresh)
            fresh.chmod(0o600)
            with fresh.open("rb") as file:
                os.fsync(file.fileno())
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Return the content from `start` up to `end` (exclusive) in chunks of about 1 MiB."""
        options: Any = {}
        if end is not None:
            options["range"] = (start, end)
        elif start:
            options["range"] = {"offset": start}
        with _translated(key):
            found = obstore.get(self._store, key, options=options)
        return self._chunks(found, key)

    def _chunks(self, found: Any, key: str) -> Iterator[bytes]:
        with _translated(key):
            for chunk in found.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def fetch(self, key: str, target: Path) -> None:
        """Write the content to a local file, mode 0600."""
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(made, "wb") as file:
            for chunk in self.read(key):
                file.write(chunk)

    def exists(self, key: str) -> bool:
        """Whether there is content under the key."""
        try:
            with _translated(key):
                obstore.head(self._store, key)
        except Gone:
            return False
        return True

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the contents; what is not there is no error."""
        for key in keys:
            try:
                with _translated(key):
                    obstore.delete(self._store, key)
            except Gone:
                continue

    def list(self, prefix: str = "") -> Iterator[Blob]:
        """Go through all blobs."""
        with _translated(prefix):
            for page in obstore.list(self._store, prefix or None):
                for meta in page:
                    yield Blob(meta["path"], meta["size"], meta["last_modified"])


def store() -> BlobStore:
    """This process's blob store. Made where it is first used: its threads survive no fork."""
    cached: tuple[int, BlobStore] | None = current_app.extensions.get("sluice.blobs")
    if cached is None or cached[0] != os.getpid():
        settings: Settings = current_app.config["SLUICE"]
        opened = BlobStore(
            settings.blobs_url,
            endpoint_url=settings.storage_endpoint_url,
            region=settings.storage_region,
        )
        cached = current_app.extensions["sluice.blobs"] = (os.getpid(), opened)
    return cached[1]


@contextmanager
def _translated(key: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError):
        raise Gone("This file has expired.", code="file_gone") from None
    except (BaseError, OSError) as error:
        # The store's own words may hold paths and addresses: they go to the log, not out.
        raise Unavailable("The file store cannot be reached just now.", code="storage") from error


def _make_private(folder: Path) -> None:
    """Make a folder and its parents, each of those made here for this user alone."""
    if not folder.exists():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
