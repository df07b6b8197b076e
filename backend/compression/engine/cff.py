"""CFF font programs: emptying the glyphs that are not shown (Adobe Technical Note 5176).

A glyph's charstring is overwritten in place, by the operator that ends it and by zeros, which pack
to nothing: so no offset in the program has to be changed.
"""

import struct
from collections.abc import Iterator, Set
from itertools import pairwise

_ENDCHAR = b"\x0e"
_CHARSET, _CHARSTRINGS, _ROS = 15, 17, (12, 30)
_PREDEFINED_CHARSETS = 3

_SHORT, _CALLS = 28, {10, 29}  # of charstrings: a number of two bytes, callsubr and callgsubr
Span = tuple[int, int]


def emptied(font: bytes, cids: Set[int]) -> bytes:
    """A font program in which all glyphs are empty but those of these CIDs, and the first.

    Raises ValueError, LookupError or struct.error for a program that is not as it should be.
    """
    _, at = _index(font, font[2])
    tops, at = _index(font, at)
    top = dict(_dictionary(font[slice(*tops[0])]))
    glyphs, _ = _index(font, int(top[(_CHARSTRINGS,)][0]))
    if _ROS in top:
        kept = {0} | _glyphs_of(font, top, len(glyphs), cids)
    else:
        kept = {0, *cids}
        for start, end in (glyphs[glyph] for glyph in kept if glyph < len(glyphs)):
            if _may_be_composed(font[start:end]):
                raise ValueError("a glyph that may be made of others, which nothing names")
    smaller = bytearray(font)
    for glyph, (start, end) in enumerate(glyphs):
        if glyph not in kept and end > start:
            smaller[start:end] = _ENDCHAR + bytes(end - start - 1)
    return bytes(smaller)


def _may_be_composed(glyph: bytes) -> bool:
    """Whether a glyph without CID draws two others: endchar first, after four numbers at least.

    See 5177, appendix C. One that begins with a subroutine may do it in there.
    """
    at = count = 0
    while at < len(glyph):
        byte = glyph[at]
        if byte < 32 and byte != _SHORT:
            return byte in _CALLS or (glyph[at : at + 1] == _ENDCHAR and count >= 4)
        count += 1
        at += 5 if byte == 255 else 3 if byte == _SHORT else 1 if byte < 247 else 2
    return False


def _index(font: bytes, at: int) -> tuple[list[Span], int]:
    """Where the entries of an INDEX are, and where it ends (5176, 5)."""
    count = struct.unpack_from(">H", font, at)[0]
    if not count:
        return [], at + 2
    size = font[at + 2]
    if not 1 <= size <= 4:
        raise ValueError(f"offsets of {size} bytes")
    table = font[at + 3 : at + 3 + size * (count + 1)]
    offsets = [int.from_bytes(table[i : i + size], "big") for i in range(0, len(table), size)]
    base = at + 2 + size * (count + 1)
    spans = [(base + start, base + end) for start, end in pairwise(offsets)]
    if len(spans) != count or any(not at < start <= end <= len(font) for start, end in spans):
        raise ValueError("an INDEX that is not in order")
    return spans, base + offsets[-1]


def _dictionary(data: bytes) -> Iterator[tuple[tuple[int, ...], list[float]]]:
    """The entries of a DICT, by their operators (5176, 4)."""
    operands: list[float] = []
    at = 0
    while at < len(data):
        byte = data[at]
        at += 1
        if byte <= 21:
            operator: tuple[int, ...] = (byte,)
            if byte == 12:
                operator = (12, data[at])
                at += 1
            yield operator, operands
            operands = []
        elif byte == 28:
            operands.append(struct.unpack_from(">h", data, at)[0])
            at += 2
        elif byte == 29:
            operands.append(struct.unpack_from(">i", data, at)[0])
            at += 4
        elif byte == 30:  # a real number, of no interest here, ends with a nibble of ones
            while data[at] & 0xF != 0xF:
                at += 1
            at += 1
            operands.append(0.0)
        elif byte <= 246:
            operands.append(byte - 139)
        elif byte <= 250:
            operands.append((byte - 247) * 256 + data[at] + 108)
            at += 1
        else:
            operands.append(-(byte - 251) * 256 - data[at] - 108)
            at += 1


def _glyphs_of(
    font: bytes, top: dict[tuple[int, ...], list[float]], count: int, cids: Set[int]
) -> set[int]:
    """The glyphs of CIDs, by the charset (5176, 13)."""
    at = int(top.get((_CHARSET,), [0.0])[0])
    if at < _PREDEFINED_CHARSETS:
        raise ValueError("a font with CIDs whose charset is one of names")
    form = font[at]
    at += 1
    if form == 0:
        charset = struct.unpack_from(f">{count - 1}H", font, at)
        return {glyph for glyph, cid in enumerate(charset, 1) if cid in cids}
    if form not in {1, 2}:
        raise ValueError(f"a charset of form {form}")
    found, glyph, step = set(), 1, ">HB" if form == 1 else ">HH"
    while glyph < count:
        first, left = struct.unpack_from(step, font, at)
        at += struct.calcsize(step)
        found |= {glyph + cid - first for cid in range(first, first + left + 1) if cid in cids}
        glyph += left + 1
    return found
