"""Taking out of font programs the glyphs that a document does not show.

Glyphs keep their numbers and fonts their widths and encodings: what is not shown becomes empty. So
nothing that refers to a glyph has to be changed, and nothing else about a font can be mistaken.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pikepdf import Array, Dictionary, Name, Object, Pdf, Stream, String

from backend.compression.engine import cff, truetype
from backend.compression.engine.document import objects_of
from backend.compression.engine.errors import UNDECODABLE
from backend.compression.engine.survey import ObjectId, Survey

_PROGRAMS = (Name.FontFile2, Name.FontFile3)
# What is gained of a smaller font is less than what it costs to look.
_WORTH_BYTES = 2048
# Old fonts for Chinese and Japanese that put their strokes in place by instructions.
_DRAWN_BY_HINTS = re.compile(r"ming|kai|cpop|dlc|df[a-z]|huatian", re.IGNORECASE)
_ALL_CODES = {b"<" + bytes(range(256)).hex().encode() + b">"}


@dataclass(slots=True)
class _Program:
    """A font program, and what of it is shown: `glyphs` by number, `codes` of simple fonts."""

    stream: Stream
    glyphs: set[int] = field(default_factory=set)
    cids: set[int] = field(default_factory=set)
    codes: set[int] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    whole: bool = False
    drawn_by_hints: bool = False


def empty_unused(pdf: Pdf, survey: Survey, *, hints: bool = True) -> Iterator[tuple[Stream, bytes]]:
    """The font programs that get smaller, and their new bytes; nothing is written.

    Without `hints`, TrueType glyphs lose their instructions, which viewers use on coarse screens
    alone, if at all.

    Of a font that a form's fields may be filled in with, what its encoding has stays. One whose
    encoding is not understood stays whole, as do all where the document could not be followed.
    """
    if not survey.complete or _has_templates(pdf):
        return
    for program in _programs(pdf, survey):
        if not program.whole:
            try:
                smaller = _emptied(program, hints=hints or program.drawn_by_hints)
            except UNDECODABLE:
                continue  # a font that cannot be read stays as it is
            if smaller is not None:
                yield program.stream, smaller


def _has_templates(pdf: Pdf) -> bool:
    """Whether there are pages that are shown once a script asks for them."""
    names = pdf.Root.get(Name.Names)
    return isinstance(names, Dictionary) and Name.Templates in names


def _programs(pdf: Pdf, survey: Survey) -> Iterable[_Program]:
    programs: dict[ObjectId, _Program] = {}
    kept = _fonts_of_forms(pdf)
    for font in objects_of(pdf):
        if not isinstance(font, Dictionary):
            continue
        # Also one that is shown and does not say what it is.
        named = Name.Type in font and font.get(Name.Type) == Name.Font
        if not named and font.objgen not in survey.shown:
            continue
        for stream in _files(_descendant(font) or font):
            program = programs.setdefault(stream.objgen, _Program(stream))
            program.drawn_by_hints |= bool(_DRAWN_BY_HINTS.search(str(font.get(Name.BaseFont))))
            shown = survey.shown.get(font.objgen, set())
            if font.objgen in kept:
                shown = shown | _ALL_CODES
            if not _note(program, font, shown, filled_in=font.objgen in kept):
                program.whole = True
    return programs.values()


def _fonts_of_forms(pdf: Pdf) -> set[ObjectId]:
    form = pdf.Root.get(Name.AcroForm)
    holders: list[Object] = [form] if isinstance(form, Dictionary) else []
    holders += [
        each for each in objects_of(pdf) if isinstance(each, Dictionary) and Name.DR in each
    ]
    found = set()
    for holder in holders:
        resources = holder.get(Name.DR)
        fonts = resources.get(Name.Font) if isinstance(resources, Dictionary) else None
        if isinstance(fonts, Dictionary):
            found |= {font.objgen for font in fonts.values() if isinstance(font, Dictionary)}
    return found


def _descendant(font: Dictionary) -> Dictionary | None:
    below = font.get(Name.DescendantFonts)
    first = below[0] if isinstance(below, Array) and len(below) == 1 else None
    return first if isinstance(first, Dictionary) else None


def _files(font: Dictionary) -> Iterator[Stream]:
    descriptor = font.get(Name.FontDescriptor)
    if not isinstance(descriptor, Dictionary):
        return
    for key in _PROGRAMS:
        stream = descriptor.get(key)
        if isinstance(stream, Stream):
            yield stream


def _note(program: _Program, font: Dictionary, shown: Iterable[bytes], *, filled_in: bool) -> bool:
    """Add what a font shows to what is known of its program; False when that is not understood.

    With a font of one byte a character, what is filled in shows some of 256; with one of several
    it may be anything.
    """
    strings = [_unescaped(each) for each in shown]
    below = _descendant(font)
    if font.get(Name.Subtype) == Name.Type0 and below is not None:
        return not filled_in and _note_composite(program, font, below, strings)
    if font.get(Name.Subtype) == Name.TrueType:
        program.codes |= {code for string in strings for code in string}
        program.names |= _names_of(font, program.codes)
        return True
    # The descendants of composite fonts come with those; the codes of other simple fonts mean
    # glyphs by names in the program itself.
    return str(font.get(Name.Subtype)) in {"/CIDFontType0", "/CIDFontType2"}


def _note_composite(
    program: _Program, font: Dictionary, below: Dictionary, strings: list[bytes]
) -> bool:
    if font.get(Name.Encoding) not in {Name("/Identity-H"), Name("/Identity-V")}:
        return False
    cids = {
        high << 8 | low
        for string in strings
        for high, low in zip(string[::2], string[1::2], strict=False)
    }
    if below.get(Name.Subtype) != Name.CIDFontType2:
        program.cids |= cids
        return True
    table = below.get(Name.CIDToGIDMap)
    if not isinstance(table, Stream):
        program.glyphs |= cids
        return True
    numbers = table.read_bytes()
    program.glyphs |= {int.from_bytes(numbers[2 * cid : 2 * cid + 2], "big") for cid in cids}
    return True


def _names_of(font: Dictionary, codes: set[int]) -> set[str]:
    """The names of glyphs that an encoding's /Differences gives to codes."""
    encoding = font.get(Name.Encoding)
    differences = encoding.get(Name.Differences) if isinstance(encoding, Dictionary) else None
    names, code = set(), 0
    for entry in differences if isinstance(differences, Array) else ():
        if isinstance(entry, Name):
            if code in codes:
                names.add(str(entry)[1:])
            code += 1
        else:
            code = int(entry)
    return names


def _unescaped(string: bytes) -> bytes:
    parsed = Object.parse(string)
    return bytes(parsed) if isinstance(parsed, String) else b""


def _emptied(program: _Program, *, hints: bool) -> bytes | None:
    if len(program.stream.get_raw_stream_buffer()) < _WORTH_BYTES:
        return None
    data = program.stream.read_bytes()
    if data[:4] in truetype.SIGNATURES:
        simple = program.codes or not (program.glyphs or program.cids)
        return truetype.emptied(
            data,
            program.glyphs | program.cids,
            codes=program.codes,
            names=program.names,
            encoded=bool(simple),
            hints=hints,
        )
    if program.codes or program.glyphs or data[:1] != b"\1":
        return None
    return cff.emptied(data, program.cids)
