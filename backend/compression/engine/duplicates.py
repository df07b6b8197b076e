"""Storing once what a document stores several times."""

import hashlib
import re
from collections.abc import Iterable, Mapping

from pikepdf import Array, Dictionary, Name, Object, Pdf, Stream

from backend.compression.engine.document import objects_of
from backend.compression.engine.errors import MALFORMED

ObjectId = tuple[int, int]

# A font can be merged once its font file has been, so merging goes from the leaves upwards.
_ROUNDS_MAX = 6
_LENGTH = re.compile(rb"/Length \d+( \d+ R)?")
# These are what they say, wherever they stand. Pages, fields and the like are not: two of them
# that look the same are still two.
_MERGEABLE = {"/Font", "/FontDescriptor", "/ExtGState", "/Encoding"}
_RESOURCES = {
    "/ColorSpace",
    "/ExtGState",
    "/Font",
    "/Pattern",
    "/ProcSet",
    "/Properties",
    "/Shading",
    "/XObject",
}
_TELLING = {"/FunctionType", "/ShadingType"}
_SPACES = {"/ICCBased", "/Indexed", "/Separation", "/DeviceN", "/CalRGB", "/CalGray", "/Lab"}


def merge_duplicates(pdf: Pdf) -> set[ObjectId]:
    """Point every reference to a copy at one original; the ids of the copies are returned.

    Streams are merged, and the fonts, colour spaces and graphics states that refer to them. The
    appearances of text fields and the like are kept apart, because programs that fill in a form
    may rewrite them in place.
    """
    gone: set[ObjectId] = set()
    for _ in range(_ROUNDS_MAX):
        copies = _copies(pdf, apart=gone | _appearances(pdf))
        if not copies:
            break
        gone.update(copies)
        _redirect([pdf.trailer, *objects_of(pdf)], copies)
    return gone


def _copies(pdf: Pdf, apart: set[ObjectId]) -> dict[ObjectId, Object]:
    """The originals by the ids of their copies."""
    firsts: dict[bytes, Object] = {}
    copies: dict[ObjectId, Object] = {}
    for thing in objects_of(pdf):
        digest = None if thing.objgen in apart else _digest(thing)
        if digest is None:
            continue
        first = firsts.setdefault(digest, thing)
        if first is not thing:
            copies[thing.objgen] = first
    return copies


def _digest(thing: Object) -> bytes | None:
    try:
        if isinstance(thing, Stream):
            head = _LENGTH.sub(b"", thing.stream_dict.unparse(resolved=True))
            return hashlib.sha256(head + b"\0" + thing.read_raw_bytes()).digest()
        if _is_mergeable(thing):
            return hashlib.sha256(thing.unparse(resolved=True)).digest()
    except MALFORMED:
        return None
    return None


def _is_mergeable(thing: Object) -> bool:
    if isinstance(thing, Dictionary):
        keys = set(thing.keys())
        named = "/Type" in keys and str(thing.get(Name.Type)) in _MERGEABLE
        known = named or bool(keys & _TELLING)
        return known or bool(keys and keys <= _RESOURCES)
    return isinstance(thing, Array) and len(thing) > 1 and str(thing[0]) in _SPACES


def _appearances(pdf: Pdf) -> set[ObjectId]:
    """The appearances that stand alone; those of a button's states are chosen, never rewritten."""
    return {
        look.objgen
        for thing in objects_of(pdf)
        if isinstance(thing, Dictionary) and Name.AP in thing and isinstance(thing.AP, Dictionary)
        for look in thing.AP.values()
        if isinstance(look, Stream)
    }


def _redirect(holders: Iterable[Object], originals: Mapping[ObjectId, Object]) -> None:
    """Replace references in place, in each object and in what it holds directly."""
    pending = list(holders)
    while pending:
        holder = pending.pop()
        for key, value in list(_entries(holder)):
            if not isinstance(value, Object):
                continue
            if value.is_indirect:
                if value.objgen in originals:
                    holder[key] = originals[value.objgen]
            elif isinstance(value, Dictionary | Array):
                pending.append(value)


def _entries(holder: object) -> Iterable[tuple[int | str, object]]:
    if isinstance(holder, Dictionary | Stream):
        return holder.items()
    return enumerate(holder) if isinstance(holder, Array) else ()
