"""TrueType font programs: emptying the glyphs that are not shown (ISO/IEC 14496-22).

Only what a PDF needs of one is kept of its tables (ISO 32000-2, 9.9.2).
"""

import struct
from collections.abc import Iterable, Iterator, Set
from itertools import pairwise

from fontTools import agl

SIGNATURES = {b"\0\1\0\0", b"true"}
_HINTS = {b"cvt ", b"fpgm", b"prep"}
# A simple font finds its glyphs by the last two.
_TABLES = [b"cvt ", b"fpgm", b"glyf", b"head", b"hhea", b"hmtx", b"loca", b"maxp", b"prep"]
_ENCODED_TABLES = [*_TABLES, b"cmap", b"post", b"OS/2"]
_CHECKSUM_OF_ALL = 0xB1B0AFBA
_LONG_FROM = 0x20000  # bytes of glyphs that the short form of `loca` cannot say
_COMPONENTS_MAX = 64  # of a glyph that is made of others
_CHARACTERS_MAX = 0x110000  # of a map; Unicode has no more
_MAPS_MAX = 16

# Flags of a component of a composite glyph.
_WORDS, _SCALE, _MORE, _TWO_SCALES, _MATRIX = 0x1, 0x8, 0x20, 0x40, 0x80
_INSTRUCTED = 0x100


def emptied(
    font: bytes,
    glyphs: Set[int],
    *,
    codes: Set[int],
    names: Set[str],
    encoded: bool,
    hints: bool = True,
) -> bytes:
    """A font program in which all glyphs are empty but those that are shown, and the first.

    They are shown by their numbers, or by a simple font's codes and names of glyphs; `encoded`
    keeps what those are found by. Without `hints` it has no instructions, which fit outlines to the
    pixels of coarse screens. Raises ValueError, LookupError or struct.error for a program
    that is not as it should be.
    """
    tables = _tables(font)
    count = struct.unpack_from(">H", tables[b"maxp"], 4)[0]
    long = struct.unpack_from(">h", tables[b"head"], 50)[0]
    layout = f">{count + 1}{'I' if long else 'H'}"
    offsets = [each * (1 if long else 2) for each in struct.unpack_from(layout, tables[b"loca"])]
    if any(start > end for start, end in pairwise(offsets)):
        raise ValueError("glyphs that are not in order")
    outlines = tables[b"glyf"]
    kept = {0} | glyphs | _encoded(tables, codes, names)
    kept = _with_components(outlines, offsets, {each for each in kept if each < count})

    parts, places, size = [], [0], 0
    for glyph in range(count):
        outline = b""
        if glyph in kept:
            outline = outlines[offsets[glyph] : offsets[glyph + 1]]
            if not hints:
                outline = _without_instructions(outline)
            outline += b"\0" * (-len(outline) % 4)
        parts.append(outline)
        size += len(outline)
        places.append(size)
    tables[b"glyf"] = b"".join(parts)
    tables[b"hmtx"] = _metrics(tables, kept)
    is_long = size >= _LONG_FROM
    places = places if is_long else [place // 2 for place in places]
    tables[b"loca"] = struct.pack(f">{count + 1}{'I' if is_long else 'H'}", *places)
    head = bytearray(tables[b"head"])
    struct.pack_into(">h", head, 50, is_long)
    tables[b"head"] = bytes(head)
    wanted = set(_ENCODED_TABLES if encoded else _TABLES) - (set() if hints else _HINTS)
    if not names and b"post" in tables:
        tables[b"post"] = b"\0\3\0\0" + tables[b"post"][4:32].ljust(28, b"\0")  # no names
    return _written(font[:4], {tag: tables[tag] for tag in sorted(wanted) if tag in tables})


def _tables(font: bytes) -> dict[bytes, bytes]:
    count = struct.unpack_from(">H", font, 4)[0]
    entries = (struct.unpack_from(">4sIII", font, 12 + 16 * index) for index in range(count))
    tables = {
        tag: font[start : start + length]
        for tag, _, start, length in entries
        if tag in _ENCODED_TABLES
    }
    if sum(map(len, tables.values())) > len(font):
        raise ValueError("tables that overlap")
    return tables


def _written(signature: bytes, tables: dict[bytes, bytes]) -> bytes:
    count = len(tables)
    power = 1 << count.bit_length() - 1
    searched = (16 * power, power.bit_length() - 1, 16 * (count - power))
    head = bytearray(tables[b"head"])
    struct.pack_into(">I", head, 8, 0)
    tables[b"head"] = bytes(head)
    directory, body, at = [], [], 12 + 16 * count
    for tag, data in tables.items():
        directory.append(struct.pack(">4sIII", tag, _checksum(data), at, len(data)))
        padded = data + b"\0" * (-len(data) % 4)
        body.append(padded)
        at += len(padded)
    font = bytearray(
        b"".join([signature, struct.pack(">HHHH", count, *searched), *directory, *body])
    )
    entry = next(each for each in directory if each.startswith(b"head"))
    place = struct.unpack_from(">I", entry, 8)[0]
    struct.pack_into(">I", font, place + 8, _CHECKSUM_OF_ALL - _checksum(bytes(font)) & 0xFFFFFFFF)
    return bytes(font)


def _checksum(data: bytes) -> int:
    data += b"\0" * (-len(data) % 4)
    total: int = sum(struct.unpack(f">{len(data) // 4}I", data))
    return total & 0xFFFFFFFF


def _metrics(tables: dict[bytes, bytes], kept: Set[int]) -> bytes:
    """The widths, 0 where a glyph is not shown; the last one may be that of many glyphs."""
    metrics = bytearray(tables[b"hmtx"])
    count = struct.unpack_from(">H", tables[b"hhea"], 34)[0]
    for glyph in range(min(count - 1, len(metrics) // 4)):
        if glyph not in kept:
            metrics[4 * glyph : 4 * glyph + 4] = bytes(4)
    return bytes(metrics)


def _with_components(outlines: bytes, offsets: list[int], glyphs: set[int]) -> set[int]:
    """The glyphs, and those that they are made of."""
    found: set[int] = set()
    pending = list(glyphs)
    while pending:
        glyph = pending.pop()
        if glyph in found or glyph + 1 >= len(offsets):
            continue
        found.add(glyph)
        pending += _components(outlines[offsets[glyph] : offsets[glyph + 1]])
    return found


def _components(outline: bytes) -> Iterator[int]:
    for _, _, glyph, _ in _parts(outline):
        yield glyph


def _parts(outline: bytes) -> Iterator[tuple[int, int, int, int]]:
    """The components of a composite glyph: where each begins, its flags, its glyph, its end."""
    if len(outline) < 10 or struct.unpack_from(">h", outline)[0] >= 0:
        return
    end = 10
    for _ in range(_COMPONENTS_MAX):
        at = end
        flags, glyph = struct.unpack_from(">HH", outline, at)
        end += 4 + (4 if flags & _WORDS else 2)
        end += 2 if flags & _SCALE else 4 if flags & _TWO_SCALES else 8 if flags & _MATRIX else 0
        yield at, flags, glyph, end
        if not flags & _MORE:
            return
    raise ValueError("a glyph of too many components")


def _without_instructions(outline: bytes) -> bytes:
    """The same glyph, to be drawn as it is (ISO/IEC 14496-22, 5.3.3)."""
    if len(outline) < 10:
        return outline
    contours = struct.unpack_from(">h", outline)[0]
    if contours >= 0:
        at = 10 + 2 * contours
        length = struct.unpack_from(">H", outline, at)[0]
        if at + 2 + length > len(outline):
            raise ValueError("a glyph of more instructions than it has bytes")
        return outline[:at] + b"\0\0" + outline[at + 2 + length :]
    plain, end = bytearray(outline), 0
    for at, flags, _, after in _parts(outline):
        struct.pack_into(">H", plain, at, flags & ~_INSTRUCTED)
        end = after
    return bytes(plain[:end])


# ---------------------------------------------------------------- simple fonts


def _encoded(tables: dict[bytes, bytes], codes: Set[int], names: Set[str]) -> set[int]:
    """Every glyph that some reader may take for one of these codes or names.

    Readers disagree about which table and which encoding counts (ISO 32000-2, 9.6.5.4), so what
    any of them finds is kept.
    """
    if not codes:
        return set()
    characters = {ord(each) for name in names for each in agl.toUnicode(name)}
    for code in codes:
        characters |= {code, 0xF000 | code, 0xF100 | code, 0xF200 | code}
        for charset in ("cp1252", "mac_roman"):
            characters |= {ord(each) for each in bytes([code]).decode(charset, "ignore")}
    in_mac = {
        byte for character in characters for byte in chr(character).encode("mac_roman", "ignore")
    }
    found = set()
    for mapping in _mappings(tables.get(b"cmap", b"")):
        found |= {mapping[each] for each in characters | in_mac if each in mapping}
    by_name = _names(tables.get(b"post", b""))
    return found | {by_name[name] for name in names if name in by_name} | _numbered(names)


def _numbered(names: Set[str]) -> set[int]:
    """Glyphs whose names are their numbers, such as g12 and glyph12."""
    digits = (
        name.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.") for name in names
    )
    return {int(each) for each in digits if each.isdecimal() and len(each) < 6}


def _mappings(cmap: bytes) -> Iterator[dict[int, int]]:
    if not cmap:
        return
    count = struct.unpack_from(">H", cmap, 2)[0]
    if count > _MAPS_MAX:
        raise ValueError(f"a cmap of {count} maps")
    for index in range(count):
        start = struct.unpack_from(">I", cmap, 8 + 8 * index)[0]
        form = struct.unpack_from(">H", cmap, start)[0]
        reads = {0: _form_0, 4: _form_4, 6: _form_6, 12: _form_12}.get(form)
        if reads is None:
            raise ValueError(f"a cmap of form {form}")
        yield reads(cmap, start)


def _form_0(cmap: bytes, start: int) -> dict[int, int]:
    return dict(enumerate(cmap[start + 6 : start + 262]))


def _form_4(cmap: bytes, start: int) -> dict[int, int]:
    count = struct.unpack_from(">H", cmap, start + 6)[0] // 2
    ends = struct.unpack_from(f">{count}H", cmap, start + 14)
    firsts = struct.unpack_from(f">{count}H", cmap, start + 16 + 2 * count)
    deltas = struct.unpack_from(f">{count}H", cmap, start + 16 + 4 * count)
    ranges_at = start + 16 + 6 * count
    ranges = struct.unpack_from(f">{count}H", cmap, ranges_at)
    _require_few(end - first + 1 for first, end in zip(firsts, ends, strict=True))
    found = {}
    for index, (first, end, delta, indirect) in enumerate(
        zip(firsts, ends, deltas, ranges, strict=True)
    ):
        for character in range(first, end + 1):
            glyph = character
            if indirect:
                at = ranges_at + 2 * index + indirect + 2 * (character - first)
                if at + 2 > len(cmap):
                    continue
                glyph = struct.unpack_from(">H", cmap, at)[0]
                if not glyph:
                    continue
            found[character] = glyph + delta & 0xFFFF
    return found


def _form_6(cmap: bytes, start: int) -> dict[int, int]:
    first, count = struct.unpack_from(">HH", cmap, start + 6)
    return dict(enumerate(struct.unpack_from(f">{count}H", cmap, start + 10), first))


def _form_12(cmap: bytes, start: int) -> dict[int, int]:
    found: dict[int, int] = {}
    count = struct.unpack_from(">I", cmap, start + 12)[0]
    groups = list(struct.iter_unpack(">III", cmap[start + 16 : start + 16 + 12 * count]))
    _require_few(end - first + 1 for first, end, _ in groups)
    for first, end, glyph in groups:
        found.update(zip(range(first, end + 1), range(glyph, glyph + end - first + 1), strict=True))
    return found


def _require_few(counts: Iterable[int]) -> None:
    total = sum(max(0, count) for count in counts)
    if total > _CHARACTERS_MAX:
        raise ValueError(f"a cmap of {total} characters")


def _names(post: bytes) -> dict[str, int]:
    """Glyphs by the names of their own that form 2 of `post` gives them."""
    if len(post) < 34 or post[:4] != b"\0\2\0\0":
        return {}
    count = struct.unpack_from(">H", post, 32)[0]
    numbers = struct.unpack_from(f">{count}H", post, 34)
    strings, at = [], 34 + 2 * count
    while at < len(post):
        length = post[at]
        strings.append(post[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    named = {}
    for glyph, number in enumerate(numbers):
        if 258 <= number < 258 + len(strings):
            named[strings[number - 258]] = glyph
    return named
