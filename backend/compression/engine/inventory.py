"""What a document has besides its looks: what a reader would miss if it were gone.

Two inventories are compared, one of the original and one of the written file, each read anew.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice

from pikepdf import Array, Dictionary, Name, Object, Pdf, Stream, String

from backend.compression.engine.document import is_signed, pdfa_claim, pdfua_claim
from backend.compression.engine.errors import MALFORMED

# Trees are walked this far; a hostile one may be endless.
_NODES_MAX = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What a document has.

    Numbers are counts. `tags` are structure elements, `metadata` the entries of the document's
    information dictionary, and `attachments` the SHA-256 of each attached file's content, by its
    name. `permissions` are what a reader without the owner's password may do.
    """

    pages: int
    links: int
    annotations: int
    outline: int
    form_fields: int
    xfa: bool
    tags: int
    language: str | None
    layers: int
    page_labels: bool
    destinations: int
    attachments: dict[str, str]
    signed: bool
    encrypted: bool
    permissions: list[str]
    pdfa: str | None
    pdfua: str | None
    metadata: dict[str, str]

    def differences(self, other: "Inventory") -> list[str]:
        """The names of what differs."""
        names = [each.name for each in fields(self)]
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def inventory_of(pdf: Pdf) -> Inventory:
    """Count what an open document has; what is malformed counts as absent."""
    root = pdf.Root
    annotations = list(_annotations(pdf))
    form = _dictionary(root, Name.AcroForm)
    layers = _dictionary(root, Name.OCProperties)
    return Inventory(
        pages=len(pdf.pages),
        links=sum(each.get(Name.Subtype) == Name.Link for each in annotations),
        annotations=len(annotations),
        outline=_outline_entries(root),
        form_fields=_terminal_fields(form),
        xfa=form is not None and Name.XFA in form,
        tags=_structure_elements(root),
        language=_text(root.get(Name.Lang)),
        layers=len(layers.get_list(Name.OCGs) or ()) if layers is not None else 0,
        page_labels=Name.PageLabels in root,
        destinations=_destinations(root),
        attachments=_attachments(pdf),
        signed=is_signed(pdf),
        encrypted=pdf.is_encrypted,
        permissions=_permissions(pdf),
        pdfa=pdfa_claim(pdf),
        pdfua=pdfua_claim(pdf),
        metadata=_information(pdf),
    )


def _dictionary(holder: Object, key: Name) -> Dictionary | None:
    found = holder.get(key)
    return found if isinstance(found, Dictionary) else None


def _text(value: Object | None) -> str | None:
    return str(value) if isinstance(value, String | Name) else None


def _annotations(pdf: Pdf) -> Iterator[Dictionary]:
    each = (thing for page in pdf.pages for thing in page.obj.get_list(Name.Annots) or ())
    return (thing for thing in islice(each, _NODES_MAX) if isinstance(thing, Dictionary))


def _outline_entries(root: Object) -> int:
    seen, found = set(), 0
    outline = _dictionary(root, Name.Outlines)
    pending = [outline.get(Name.First)] if outline is not None else []
    while pending and found < _NODES_MAX:
        entry = pending.pop()
        if not isinstance(entry, Dictionary) or entry.objgen in seen:
            continue
        seen.add(entry.objgen)
        found += 1
        pending += [entry.get(Name.Next), entry.get(Name.First)]
    return found


def _terminal_fields(form: Dictionary | None) -> int:
    seen, found = set(), 0
    pending = list(form.get_list(Name.Fields) or ()) if form is not None else []
    while pending and found < _NODES_MAX:
        field = pending.pop()
        if not isinstance(field, Dictionary) or (field.is_indirect and field.objgen in seen):
            continue
        seen.add(field.objgen)
        below = [
            kid
            for kid in field.get_list(Name.Kids) or ()
            if isinstance(kid, Dictionary) and Name.T in kid
        ]
        found += not below
        pending += below
    return found


def _structure_elements(root: Object) -> int:
    tree = _dictionary(root, Name.StructTreeRoot)
    seen, found = set(), 0
    pending = _kids(tree) if tree is not None else []
    while pending and found + len(pending) < _NODES_MAX:
        element = pending.pop()
        if element.is_indirect and element.objgen in seen:
            continue
        seen.add(element.objgen)
        found += 1
        pending += _kids(element)
    return found


def _kids(element: Dictionary) -> list[Dictionary]:
    """The structure elements below one; /S is what they have and other kids have not."""
    kids = element.get(Name.K)
    each = kids if isinstance(kids, Array) else [kids]
    return [kid for kid in each if isinstance(kid, Dictionary) and Name.S in kid]


def _destinations(root: Object) -> int:
    old = _dictionary(root, Name.Dests)
    names = _dictionary(root, Name.Names)
    tree = _dictionary(names, Name.Dests) if names is not None else None
    return (len(old) if old is not None else 0) + len(_values_in(tree))


def _values_in(tree: Dictionary | None) -> list[Object]:
    """The values of a name tree (ISO 32000-2, 7.9.6), each node once, however deep."""
    seen, found = set(), list[Object]()
    pending: list[Object | None] = [tree]
    while pending and len(found) + len(pending) < _NODES_MAX:
        node = pending.pop()
        if not isinstance(node, Dictionary) or (node.is_indirect and node.objgen in seen):
            continue
        seen.add(node.objgen)
        pairs = node.get_list(Name.Names) or ()
        found += [value for value in list(pairs)[1::2] if isinstance(value, Object)]
        pending += reversed(list(node.get_list(Name.Kids) or ()))
    return found


def attachments_of(pdf: Pdf) -> Iterator[tuple[str, Stream]]:
    """The files that a document has within it: by name, by annotation, or however else."""
    seen = set()
    for thing in _file_specifications(pdf):
        if not isinstance(thing, Dictionary) or not isinstance(thing.get(Name.EF), Dictionary):
            continue
        name = _text(thing.get(Name.UF)) or _text(thing.get(Name.F)) or ""
        for stream in {each.objgen: each for each in thing.EF.values()}.values():
            if isinstance(stream, Stream) and (name, stream.objgen) not in seen:
                seen.add((name, stream.objgen))
                yield name, stream


def _file_specifications(pdf: Pdf) -> Iterator[Object | None]:
    names = _dictionary(pdf.Root, Name.Names)
    if names is not None:
        yield from _values_in(_dictionary(names, Name.EmbeddedFiles))
    for holder in (pdf.Root, *(page.obj for page in pdf.pages)):
        yield from holder.get_list(Name.AF) or ()
    for annotation in _annotations(pdf):
        yield annotation.get(Name.FS)
        media = _dictionary(annotation, Name.RichMediaContent)
        if media is not None:
            yield from _values_in(_dictionary(media, Name.Assets))


def _attachments(pdf: Pdf) -> dict[str, str]:
    found: dict[str, str] = {}
    digests: dict[tuple[int, int], str] = {}
    contents: dict[str, set[str]] = defaultdict(set)
    for name, stream in attachments_of(pdf):
        if stream.objgen not in digests:
            digests[stream.objgen] = _digest(stream)
        digest = digests[stream.objgen]
        if digest not in contents[name]:
            contents[name].add(digest)
            number = len(contents[name])
            found[name if number == 1 else f"{name} ({number})"] = digest
    return found


def _digest(stream: Stream) -> str:
    try:
        content = stream.read_bytes()
    except MALFORMED:
        content = stream.read_raw_bytes()
    return hashlib.sha256(content).hexdigest()


def _permissions(pdf: Pdf) -> list[str]:
    if not pdf.is_encrypted:
        return []
    return sorted(name for name, allowed in pdf.allow._asdict().items() if allowed)


def _information(pdf: Pdf) -> dict[str, str]:
    information = _dictionary(pdf.trailer, Name.Info)
    if information is None:
        return {}
    return {key[1:]: str(value) for key, value in information.items() if isinstance(value, String)}
