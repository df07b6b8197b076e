"""Taking out what no reader shows: previews, and what programs keep in a document for their use."""

from collections.abc import Iterable

from pikepdf import Dictionary, Name, Object, Stream

# Of pages: pictures of themselves. Of pages and forms: a program's own copy of what they were made
# of (ISO 32000-2, 14.5). Of forms: from which file TeX has taken them.
_PRIVATE = ("/PieceInfo", "/Thumb", "/PTEX.FileName", "/PTEX.InfoDict", "/PTEX.PageNumber")


def strip(things: Iterable[Object]) -> int:
    """Take out private data, thumbnails and what images say of themselves; how many there were."""
    gone = 0
    for thing in things:
        if not isinstance(thing, Dictionary | Stream):
            continue
        is_image = isinstance(thing, Stream) and thing.get(Name.Subtype) == Name.Image
        is_form = isinstance(thing, Stream) and thing.get(Name.Subtype) == Name.Form
        # In a dictionary of resources the same words are anybody's names.
        if not (is_image or is_form or thing.get(Name.Type) in (Name.Page, Name.Catalog)):
            continue
        keys = [key for key in (*_PRIVATE, *(["/Metadata"] if is_image else [])) if key in thing]
        for key in keys:
            del thing[key]
        gone += len(keys)
    return gone
