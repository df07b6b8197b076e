"""Blobs: file contents by key, in a folder (file://) or a bucket (s3://), through obstore.

Nothing here holds a whole blob in memory. A store belongs to the process that opened it:
obstore's threads do not survive a fork, so the store is opened at its first use in a process.
"""

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from flask import current_app
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from backend.config import MIB, Settings, SettingsError
from backend.errors import Gone, Unavailable
from backend.storage.private import FILE_MODE, persist_folder, private_file, private_folder

if TYPE_CHECKING:
    from obstore.store import S3Config

CHUNK_BYTES = 4 * MIB
PART_BYTES = 5 * MIB  # the least that S3 takes as a part of a multipart upload
PARTS_AT_ONCE = 4
KEYS_AT_ONCE = 1000  # the most that S3 lists or deletes in one request


@dataclass(frozen=True, slots=True)
class Blob:
    """What a store knows of a blob without reading it."""

    key: str
    size_bytes: int
    modified: datetime


class Blobs:
    """A store of blobs. Each call raises Unavailable when the store cannot be reached."""

    def __init__(self, objects: LocalStore | S3Store) -> None:
        self._objects = objects

    def put(self, key: str, source: Path) -> None:
        """Store the file's content under the key, whole or not at all.

        The source is not to be written to any more: it may share its disk blocks with the blob.
        """
        with _reaching():
            obstore.put(
                self._objects, key, source, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
            )

    def find(self, key: str) -> Blob | None:
        """Return what is known of the blob, or nothing when there is none."""
        with _reaching():
            try:
                meta = obstore.head(self._objects, key)
            except FileNotFoundError:
                return None
        return Blob(key, meta["size"], meta["last_modified"])

    def exists(self, key: str) -> bool:
        """Say whether there is a blob under the key."""
        return self.find(key) is not None

    def read(self, key: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Return the blob's bytes from start up to, but not including, end, in chunks.

        A missing blob raises Gone here, at the call, not at the first chunk.
        """
        blob = self.find(key)
        if blob is None:
            raise _gone()
        stop = blob.size_bytes if end is None else min(end, blob.size_bytes)
        return self._chunks(key, start, stop)

    def _chunks(self, key: str, start: int, stop: int) -> Iterator[bytes]:
        # A request per chunk: one long answer would meet its time limit at a slow reader, and
        # would hold its connection for as long.
        for offset in range(start, stop, CHUNK_BYTES):
            with _reaching():
                try:
                    chunk = obstore.get_range(
                        self._objects, key, start=offset, end=min(offset + CHUNK_BYTES, stop)
                    )
                except FileNotFoundError:
                    raise _gone() from None
            yield chunk.to_bytes()

    def fetch(self, key: str, target: Path) -> None:
        """Write the blob to a file of mode 0600; on an error no half of it is left."""
        chunks = self.read(key)
        target.unlink(missing_ok=True)
        try:
            with private_file(target) as file:
                for chunk in chunks:
                    file.write(chunk)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the blobs; one that is not there is no error."""
        remaining = iter(keys)
        while batch := list(islice(remaining, KEYS_AT_ONCE)):
            with _reaching():
                obstore.delete(self._objects, batch)

    def list(self) -> Iterator[Blob]:
        """Yield every blob, in no order."""
        with _reaching():
            for page in obstore.list(self._objects, chunk_size=KEYS_AT_ONCE):
                for meta in page:
                    yield Blob(meta["path"], meta["size"], meta["last_modified"])

    def total_bytes(self) -> int:
        """Return the size of all blobs together."""
        return sum(blob.size_bytes for blob in self.list())


class FolderBlobs(Blobs):
    """Blobs in a folder of this machine: files of mode 0600 in folders of mode 0700.

    obstore would create them as the umask says, copy what is on the same disk already, and
    not wait for the disk. So files are put here by hand; reading and listing are obstore's.
    """

    def __init__(self, root: Path) -> None:
        self._root = private_folder(root)
        super().__init__(LocalStore(prefix=root))

    def put(self, key: str, source: Path) -> None:
        """Store the file's content; it is on disk when this returns."""
        target = self._root / key
        # A crash leaves this name behind. It is listed, and so found as an orphan.
        staged = target.with_name(f"{target.name}.{secrets.token_hex(8)}")
        with _reaching():
            private_folder(target.parent)
            try:
                _link_or_copy(source, staged)
                _settle(staged)
                staged.replace(target)
                persist_folder(target.parent)
            finally:
                # Renaming a file over another link to itself does nothing and leaves both names.
                staged.unlink(missing_ok=True)

    def list(self) -> Iterator[Blob]:
        """Yield every blob; a root that has vanished is not an empty store."""
        if not self._root.is_dir():
            raise _unavailable()
        yield from super().list()

    def delete(self, keys: Iterable[str]) -> None:
        """Delete the blobs. Emptied folders stay: removing one would race with a put into it."""
        with _reaching():
            for key in keys:
                (self._root / key).unlink(missing_ok=True)


def open_store(settings: Settings) -> Blobs:
    """Open the store that the settings name."""
    url = urlsplit(settings.blobs_url)
    if url.scheme == "file":
        return FolderBlobs(Path(url2pathname(url.path)))
    if url.scheme == "s3" and url.netloc:
        return Blobs(_open_bucket(url.netloc, url.path.strip("/"), settings))
    raise SettingsError(
        f"STORAGE_URL is {settings.blobs_url!r}: it must be file:///a/folder or s3://bucket/prefix"
    )


def current_settings() -> Settings:
    """Return the application's settings: the one place of this domain that knows where they are."""
    return cast(Settings, current_app.config["SLUICE"])


def store() -> Blobs:
    """Return this process's store of the current application."""
    return _opened(os.getpid(), current_settings())


_opened_by: set[int] = set()


@lru_cache(maxsize=8)
def _opened(process: int, settings: Settings) -> Blobs:
    # Without this the first read in the child would wait for ever.
    if _opened_by - {process}:
        raise RuntimeError("the blob store was used before this process forked; use it only after")
    _opened_by.add(process)
    return open_store(settings)


def _open_bucket(bucket: str, prefix: str, settings: Settings) -> S3Store:
    endpoint = settings.storage_endpoint_url
    config: S3Config = {"region": settings.storage_region}
    if endpoint:
        config["endpoint"] = endpoint
    if settings.aws_access_key_id:  # which may stand in a file that obstore does not read
        config["access_key_id"] = settings.aws_access_key_id
        config["secret_access_key"] = settings.aws_secret_access_key.get_secret_value()
    return S3Store(
        bucket,
        prefix=prefix or None,
        config=config,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": "3s",
            "timeout": "30s",
        },
        # A request thread waits for this; a job has retries of its own.
        retry_config={"max_retries": 2, "retry_timeout": timedelta(seconds=30)},
    )


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError) as error:
        raise _unavailable() from error


def _unavailable() -> Unavailable:
    return Unavailable("The file store cannot be reached just now. Try again in a moment.")


def _gone() -> Gone:
    return Gone("The content of this file is no longer kept.")


def _link_or_copy(source: Path, target: Path) -> None:
    with suppress(OSError):
        target.hardlink_to(source)
        return
    # Another filesystem, or one without links.
    with source.open("rb") as content, private_file(target) as file:
        shutil.copyfileobj(content, file, CHUNK_BYTES)


def _settle(staged: Path) -> None:
    """Give the file its mode and time, and wait until its content is on disk."""
    staged.chmod(FILE_MODE)
    # The age of a blob counts from when it was put, as in a bucket.
    os.utime(staged)
    with staged.open("rb") as file:
        os.fsync(file.fileno())
