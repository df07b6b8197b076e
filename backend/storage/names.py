"""File names that people give: data, never paths. Refused when they are not what they seem."""

import re
import unicodedata
from collections.abc import Iterable, Set
from pathlib import PurePosixPath

from backend.errors import InvalidInput

LONGEST_NAME = 1024  # bytes in UTF-8
LONGEST_PART = 255  # bytes in UTF-8, the limit of common file systems
DRIVE = re.compile(r"[A-Za-z]:")
# Marks that make a name read other than it is: U+202E shows "fdp.exe" as "exe.pdf".
BIDI_MARKS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# What some systems cannot have in a name (Windows' reserved characters).
RESERVED = re.compile(r'[<>:"|?*]')
DEVICE = re.compile(r"CON|PRN|AUX|NUL|(COM|LPT)[0-9¹²³]", re.IGNORECASE)


def checked_name(name: str, field: str = "name") -> str:
    """Return the name, normalised (NFC, forward slashes); raise InvalidInput if it is unsafe.

    Folders are kept; `..`, absolute paths, control characters, marks of writing direction and
    names over 1024 bytes are refused.
    """
    clean = unicodedata.normalize("NFC", name).replace("\\", "/").strip()
    reason = _fault(clean)
    if reason:
        shown = ascii(name if len(name) <= 60 else name[:57] + "...")
        raise InvalidInput(f"{field}: {shown} {reason}.", fields={field: [f"It {reason}."]})
    return "/".join(part for part in clean.split("/") if part not in {"", "."})


def _fault(name: str) -> str | None:
    parts = name.split("/")
    if not name.strip("/. "):
        return "is not a file's name"
    if len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    if any(len(part.encode("utf-8", "replace")) > LONGEST_PART for part in parts):
        return f"has a part longer than {LONGEST_PART} bytes"
    if ".." in parts or name.startswith("/") or DRIVE.match(name):
        return "leads out of its folder; give a name relative to it"
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in name):
        return "has control characters"
    if BIDI_MARKS & set(name):
        return "has marks of writing direction, which make it read other than it is"
    return None


def unique_names(names: Iterable[str]) -> list[str]:
    """Make names that can stand side by side in one folder tree on any system.

    The second of two that differ at most in case becomes "name (2).pdf", and so does a folder
    that has a file's name; reserved characters become underscores, and reserved names get one.
    Order and number are kept, and no part is longer than 255 bytes.
    """
    files: set[str] = set()
    folders: set[str] = set()
    result = []
    for name in names:
        path = ""
        *above, last = [_safe(part) for part in PurePosixPath(name).parts]
        for part in above:
            path = _first_free(path, part, files)
            folders.add(path.casefold())
            path += "/"
        path = _first_free(path, last, files | folders)
        files.add(path.casefold())
        result.append(path)
    return result


def _safe(part: str) -> str:
    clean = RESERVED.sub("_", part).rstrip(". ") or "_"
    return f"_{clean}" if DEVICE.fullmatch(clean.partition(".")[0].rstrip()) else clean


def _first_free(folder: str, part: str, taken: Set[str]) -> str:
    """The part in its folder, with the first number that makes it another than those taken."""
    candidate, number = folder + part, 1
    stem, suffix = PurePosixPath(part).stem, PurePosixPath(part).suffix
    while candidate.casefold() in taken:
        number += 1
        end = f" ({number}){suffix}"
        room = LONGEST_PART - len(end.encode())
        short = stem.encode()[:room].decode(errors="ignore") if room > 0 else ""
        candidate = f"{folder}{short}{end if room > 0 else f' ({number})'}"
    return candidate
