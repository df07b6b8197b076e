"""What a document's bytes consist of."""

from collections.abc import Callable
from dataclasses import dataclass

from pikepdf import Array, Dictionary, Name, Object, Pdf, Stream

from backend.compression.engine.document import objects_of
from backend.compression.engine.inventory import attachments_of
from backend.compression.engine.survey import ObjectId

_FONT_PROGRAMS = (Name.FontFile, Name.FontFile2, Name.FontFile3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes by what they are of; together they are the file.

    `images` counts as stored, `fonts` programs and maps of characters, `content` what pages, forms,
    patterns and glyphs draw, and `structure` all the rest.
    """

    images: int
    fonts: int
    content: int
    attachments: int
    structure: int


def sizes_of(pdf: Pdf, file_bytes: int) -> Sizes:
    """What the `file_bytes` of an open document are of."""
    kind_of = kinds_of(pdf)
    sums = dict.fromkeys(("images", "fonts", "content", "attachments"), 0)
    for thing in objects_of(pdf):
        if isinstance(thing, Stream):
            kind = kind_of(thing)
            if kind is not None:
                sums[kind] += len(thing.get_raw_stream_buffer())
    # What lies in a file twice, or beside its objects, may make the parts more than the whole.
    return Sizes(**sums, structure=max(0, file_bytes - sum(sums.values())))


def kinds_of(pdf: Pdf) -> Callable[[Stream], str | None]:
    """What tells the kind of a stream: the name of a field of `Sizes`, or None for structure."""
    kinds = _kinds(pdf)
    return lambda stream: kinds.get(stream.objgen) or _kind_by_itself(stream)


def _kind_by_itself(stream: Stream) -> str | None:
    subtype = stream.get(Name.Subtype)
    if subtype == Name.Image:
        return "images"
    if subtype == Name.Form or Name.PatternType in stream:
        return "content"
    return "fonts" if stream.get(Name.Type) == Name.CMap else None


def _kinds(pdf: Pdf) -> dict[ObjectId, str]:
    """The streams that only those say the kind of who refer to them."""
    kinds = {stream.objgen: "attachments" for _, stream in attachments_of(pdf)}
    for page in pdf.pages:
        for part in _each(page.obj.get(Name.Contents)):
            kinds[part.objgen] = "content"
    for thing in objects_of(pdf):
        if isinstance(thing, Dictionary):
            kinds |= {thing[key].objgen: "fonts" for key in _FONT_PROGRAMS if key in thing}
            if Name.ToUnicode in thing:
                kinds[thing.ToUnicode.objgen] = "fonts"
            glyphs = thing.CharProcs if Name.CharProcs in thing else None
            if isinstance(glyphs, Dictionary):
                kinds |= {glyph.objgen: "content" for glyph in glyphs.values()}
    return kinds


def _each(contents: Object | None) -> list[Object]:
    if isinstance(contents, Array):
        return [part for part in contents if isinstance(part, Object)]
    return [contents] if isinstance(contents, Stream) else []
