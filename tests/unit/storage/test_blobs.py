"""What only the folder store promises, and how a process finds its store."""

import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from backend.config import Settings, SettingsError
from backend.errors import Unavailable
from backend.storage import blobs as blobs_module
from backend.storage.blobs import FolderBlobs, open_store, store

KEY = "1/ab/" + "ab" * 32


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    path.chmod(0o644)
    return path


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(root: Path) -> set[tuple[bool, int]]:
    """(is a folder, mode) of everything at and under the root."""
    return {(path.is_dir(), path.stat().st_mode & 0o777) for path in (root, *root.rglob("*"))}


@pytest.mark.usefixtures("open_umask")
def test_files_are_0600_and_folders_0700_at_umask_022(tmp_path: Path, source: Path) -> None:
    root = tmp_path / "var" / "blobs"
    blobs = open_store(Settings(_env_file=None, data_dir=tmp_path / "var"))
    blobs.put(KEY, source)
    blobs.fetch(KEY, tmp_path / "target")
    assert modes(root) == {(True, 0o700), (False, 0o600)}
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("open_umask")
def test_a_root_that_was_open_to_others_is_closed(tmp_path: Path) -> None:
    root = tmp_path / "a folder of blobs"
    root.mkdir(mode=0o755)
    open_store(Settings(_env_file=None, storage_url=root.as_uri()))
    assert root.stat().st_mode & 0o777 == 0o700


def test_on_one_filesystem_nothing_is_copied(tmp_path: Path, source: Path) -> None:
    FolderBlobs(tmp_path / "blobs").put(KEY, source)
    assert (tmp_path / "blobs" / KEY).samefile(source)


@pytest.mark.usefixtures("open_umask")
def test_across_filesystems_it_is_copied(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another_filesystem(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", another_filesystem)
    root = tmp_path / "blobs"
    FolderBlobs(root).put(KEY, source)
    assert (root / KEY).read_bytes() == b"content"
    assert not (root / KEY).samefile(source)
    assert modes(root) == {(True, 0o700), (False, 0o600)}


def test_putting_the_same_file_twice_leaves_one_name(tmp_path: Path, source: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    blobs.put(KEY, source)
    blobs.put(KEY, source)
    assert [blob.key for blob in blobs.list()] == [KEY]


def test_a_put_that_fails_leaves_nothing(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs")
    with pytest.raises(Unavailable):
        blobs.put(KEY, tmp_path / "none")
    assert list(blobs.list()) == []


def test_a_fetch_that_fails_leaves_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Iterator[bytes]:
        yield b"half"
        raise Unavailable("gone away")

    blobs = FolderBlobs(tmp_path / "blobs")
    monkeypatch.setattr(blobs, "read", broken)
    with pytest.raises(Unavailable):
        blobs.fetch(KEY, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("url", ["gs://bucket", "memory://", "s3://", "/a/folder", "ftp://x/y"])
def test_another_kind_of_address_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"STORAGE_URL is .* must be file:///"):
        open_store(Settings(_env_file=None, storage_url=url))


def test_a_process_opens_its_store_once(app: Flask) -> None:
    assert store() is store()


def in_a_child(act: Callable[[], object]) -> bool:
    """Fork, and say whether the child did it without an error."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except Exception:  # noqa: BLE001 - the exit status carries it to the parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def nothing_opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if no store had been opened in this process."""
    monkeypatch.setattr(blobs_module, "_opened_by", set())
    blobs_module._opened.cache_clear()
    yield
    blobs_module._opened.cache_clear()


@pytest.mark.usefixtures("nothing_opened")
def test_a_forked_worker_opens_a_store_of_its_own(app: Flask) -> None:
    assert in_a_child(store)


@pytest.mark.usefixtures("nothing_opened")
def test_a_store_used_before_the_fork_is_an_error_not_a_hang(
    app: Flask, capfd: pytest.CaptureFixture[str]
) -> None:
    store()
    assert not in_a_child(store)
    assert "before this process forked" in capfd.readouterr().err
