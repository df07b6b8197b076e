"""ICC profiles: leaving out what only a printer needs (ICC.1:2022, 7 and 9.2)."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress

from pikepdf import Array, Dictionary, Name, Object, Stream

from backend.compression.engine.errors import UNDECODABLE

# From the profile's colours to a device's: a profile that says what an image's colours are is read
# the other way.
_OUTPUT = {b"B2A0", b"B2A1", b"B2A2", b"B2D0", b"B2D1", b"B2D2", b"B2D3"}
# What can be printed and how it looks then, and the measurements that a profile was computed from.
_ASIDE = {b"gamt", b"pre0", b"pre1", b"pre2", b"targ", b"CIED", b"DevD"}
_HEADER, _ENTRY = 128, 12
_SIZE, _CLASS, _DATE, _ID = slice(0, 4), slice(12, 16), slice(24, 36), slice(84, 100)
_TAGS_MAX = 1000
# To be asked for first: there may be a million objects, and most have none of them.
_OF_OUTPUT = (Name.OutputIntents, Name.DestOutputProfile, Name.Group)


def slimmer(things: Sequence[Object]) -> Iterator[tuple[Stream, bytes]]:
    """The profiles that change, and what they become; nothing is written.

    Those that pages are printed or blended in keep what is for output.
    """
    outputs = {
        profile.objgen
        for thing in things
        if isinstance(thing, Dictionary | Stream)
        for profile in _outputs(thing)
    }
    for thing in things:
        if (
            isinstance(thing, Stream)
            and thing.get_int(Name.N, 0) in {1, 3, 4}
            and Name.Type not in thing
            and Name.Subtype not in thing
        ):
            with suppress(*UNDECODABLE):
                before = thing.read_bytes()
                after = slimmed(before, output=thing.objgen in outputs)
                if after != before:
                    yield thing, after


def _outputs(holder: Dictionary | Stream) -> Iterator[Stream]:
    if not any(key in holder for key in _OF_OUTPUT):
        return
    intents = holder.get(Name.OutputIntents)
    for each in (holder, *(intents if isinstance(intents, Array) else ())):
        profile = each.get(Name.DestOutputProfile) if isinstance(each, Dictionary) else None
        if isinstance(profile, Stream):
            yield profile
    group = holder.get(Name.Group)
    space = group.get(Name.CS) if isinstance(group, Dictionary) else None
    if isinstance(space, Array) and len(space) > 1 and isinstance(space[1], Stream):
        yield space[1]


def slimmed(profile: bytes, *, output: bool = False) -> bytes:
    """A profile that gives the same colours, without its date and what only describes it.

    Unless it is one that pages are printed in, what is for `output` goes as well.

    So profiles that a program has made anew for each image are alike, and are stored once.

    Raises ValueError or struct.error for what is no profile.
    """
    if profile[36:40] != b"acsp":
        raise ValueError("not an ICC profile")
    count = struct.unpack_from(">I", profile, _HEADER)[0]
    if count > _TAGS_MAX:
        raise ValueError(f"a profile of {count} tags")
    entries = [
        struct.unpack_from(">4sII", profile, _HEADER + 4 + _ENTRY * index) for index in range(count)
    ]
    tables = any(tag.startswith((b"A2B", b"D2B")) for tag, *_ in entries)
    # Of a printer's profile the way to its inks says how black its black is.
    needed = output or not tables or profile[_CLASS] == b"prtr"
    dropped = _ASIDE if needed else _ASIDE | _OUTPUT
    kept = [entry for entry in entries if entry[0] not in dropped]
    if len(kept) == len(entries):
        return _undated(profile[:_HEADER]) + profile[_HEADER:]
    if sum(size for _, size in {entry[1:] for entry in kept}) > len(profile):
        raise ValueError("a profile whose tags overlap")
    at = _HEADER + 4 + _ENTRY * len(kept)
    places: dict[tuple[int, int], int] = {}
    table, body = [], []
    for tag, start, size in kept:
        if (start, size) not in places:
            data = profile[start : start + size]
            data += bytes(-len(data) % 4)
            places[start, size] = at
            body.append(data)
            at += len(data)
        table.append(struct.pack(">4sII", tag, places[start, size], size))
    head = bytearray(_undated(profile[:_HEADER]))
    head[_SIZE] = struct.pack(">I", at)
    if dropped & _OUTPUT:
        head[_CLASS] = b"scnr"  # of which nothing more is asked than to be read
    return bytes(head) + struct.pack(">I", len(kept)) + b"".join(table + body)


def _undated(head: bytes) -> bytes:
    undated = bytearray(head)
    undated[_DATE], undated[_ID] = bytes(12), bytes(16)  # zeros: that none was computed
    return bytes(undated)
