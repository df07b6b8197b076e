"""Files and folders that only this user of the machine can look into, whatever the umask is."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

FILE_MODE = 0o600
FOLDER_MODE = 0o700


def private_folder(folder: Path) -> Path:
    """Make the folder, and those above it that are missing, with mode 0700, and return it.

    An existing folder is made private too; those above it are left as they are.
    """
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=FOLDER_MODE, exist_ok=True)
        persist_folder(missing.parent)
    if stat.S_IMODE(folder.stat().st_mode) & 0o777 != FOLDER_MODE:
        folder.chmod(FOLDER_MODE)
    return folder


def private_file(path: Path) -> BinaryIO:
    """Make a new file of mode 0600 and open it for writing."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb")


def persist_folder(folder: Path) -> None:
    """Wait until the folder's entries are on disk, so that a new name survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
