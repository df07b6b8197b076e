"""What a PDF has besides its looks, and what of it is lost; in the rivals' environment."""

import hashlib
from collections import Counter
from contextlib import suppress
from typing import Any

import pikepdf
from pikepdf import Dictionary, Name

MALFORMED = (
    *(pikepdf.PdfError, pikepdf.PasswordError, ArithmeticError, AttributeError, LookupError),
    *(NotImplementedError, OSError, RuntimeError, TypeError, ValueError),
)
FIELDS_MAX = 100_000

COUNTED = ("fields", "annotations", "links")  # fewer are a loss
PRESENT = ("tags", "layers", "page labels", "XFA", "encryption")
EQUAL = ("title", "PDF/A claim", "language")


def of(path: str) -> dict[str, Any]:
    """What a document has."""
    with pikepdf.open(path) as pdf:
        root, kinds = pdf.Root, _annotations(pdf)
        form, tree = root.get(Name.AcroForm), root.get(Name.StructTreeRoot)
        title, claim = _metadata(pdf)
        return {
            "fields": _fields(form),
            "annotations": kinds.total(),
            "links": kinds[Name.Link],
            "tags": isinstance(tree, Dictionary) and Name.K in tree,
            "layers": Name.OCProperties in root,
            "page labels": Name.PageLabels in root,
            "XFA": isinstance(form, Dictionary) and Name.XFA in form,
            "encryption": pdf.is_encrypted,
            "title": title,
            "PDF/A claim": claim,
            "language": str(root.get(Name.Lang, "")),
            "attachments": _attachments(pdf),
            "signatures": _signatures(pdf),
        }


def losses(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what a document had, and the other has not; signatures are not looked at."""
    lost = [name for name in COUNTED if after[name] < before[name]]
    lost += [name for name in PRESENT if before[name] and not after[name]]
    lost += [name for name in EQUAL if before[name] and before[name] != after[name]]
    if not before["attachments"].items() <= after["attachments"].items():
        lost.append("attachments")
    return lost


def _annotations(pdf: pikepdf.Pdf) -> Counter[Any]:
    kinds: Counter[Any] = Counter()
    for page in pdf.pages:
        try:
            for each in page.get(Name.Annots, []):
                kinds[each.get(Name.Subtype)] += 1
        except MALFORMED:
            continue
    return kinds


def _fields(form: Any) -> int:
    seen, count = set(), 0
    pending = list(form.get(Name.Fields, [])) if isinstance(form, Dictionary) else []
    while pending and count < FIELDS_MAX:
        field = pending.pop()
        try:
            if field.is_indirect and field.objgen in seen:
                continue
            seen.add(field.objgen)
            below = [kid for kid in field.get(Name.Kids, []) if Name.T in kid]
        except MALFORMED:
            continue
        pending += below
        count += not below
    return count


def _attachments(pdf: pikepdf.Pdf) -> dict[str, str]:
    try:
        return {
            name: hashlib.sha256(each.get_file().read_bytes()).hexdigest()
            for name, each in pdf.attachments.items()
        }
    except MALFORMED:
        return {}


def _signatures(pdf: pikepdf.Pdf) -> int:
    return sum(
        isinstance(thing, Dictionary) and Name.ByteRange in thing and Name.Contents in thing
        for thing in pdf.objects
    )


def _metadata(pdf: pikepdf.Pdf) -> tuple[str, str]:
    """The title, and which PDF/A the document says that it is."""
    title = claim = ""
    with suppress(*MALFORMED):
        title = str(pdf.docinfo.get(Name.Title, ""))
    with (
        suppress(*MALFORMED),
        pdf.open_metadata(set_pikepdf_as_editor=False, update_docinfo=False) as metadata,
    ):
        claim = metadata.pdfa_status or ""
        title = title or str(metadata.get("dc:title", ""))
    return title.strip(), claim
