"""Opening a PDF, looking at what must be respected in it, and writing it again."""

import mmap
import re
from pathlib import Path
from typing import BinaryIO

import pikepdf
from pikepdf import Dictionary, Name, Object, Pdf

from backend.compression.engine.errors import (
    MALFORMED,
    DamagedPdf,
    NeedsPassword,
    NotAPdf,
    WrongPassword,
)
from backend.compression.engine.progress import Progress

# ISO 32000-2, annex I: readers look for the header within the first 1024 bytes.
_HEADER_WITHIN = 1024
_OBJECT = re.compile(rb"\d\s+\d+\s+obj\b")
# A stream that unpacks to more than this, or by more filters, is left packed.
UNPACKED_BYTES_MAX = 256 * 2**20
_FILTERS_MAX = 8
# ISO 32000-2, table 225: bit 2 of /SigFlags.
_APPEND_ONLY = 2
_FIELDS_MAX = 100_000
# XMP as an element or an attribute. ISO 19005-1, 6.7.11 prescribes the prefix, and a search is
# not upset by metadata that is no XML. What may be between is bounded, so that much of it takes no
# longer.
_IN_XMP = rb"(?:\s{0,9}=\s{0,9}[\"']|(?:\s[^>]{0,200}+)?>)\s{0,99}"
_PDFA_LEVEL = re.compile(rb"pdfaid:conformance" + _IN_XMP + rb"(\w)")
_PDFA_PART = re.compile(rb"pdfaid:part" + _IN_XMP + rb"(\d)")
_PDFUA_PART = re.compile(rb"pdfuaid:part" + _IN_XMP + rb"(\d)")
_METADATA_BYTES_MAX = 4 * 2**20


def open_pdf(source: Path, password: str | None) -> Pdf:
    """Open a PDF that has at least one page; repairs what can be repaired.

    Raises NotAPdf, NeedsPassword, WrongPassword or DamagedPdf.
    """
    _require_header(source)
    limit_memory()
    try:
        pdf = pikepdf.open(source, password=password or "")
    except pikepdf.PasswordError as error:
        if password:
            raise WrongPassword("The password does not open this PDF.") from error
        raise NeedsPassword("This PDF needs a password to be opened.") from error
    except MALFORMED as error:
        _require_objects(source)
        reason = _reason(error, source)
        raise DamagedPdf(f"The PDF is damaged and cannot be opened{reason}") from error
    if not pdf.pages:
        pdf.close()
        raise DamagedPdf("The PDF is damaged: it has no pages.")
    return pdf


def problems_of(pdf: Pdf, source: Path) -> list[str]:
    """What qpdf had to repair so far, in its words."""
    return list(dict.fromkeys(_without(source, str(each)) for each in pdf.get_warnings()))


def _reason(error: Exception, source: Path) -> str:
    """What qpdf says is broken, as the end of a sentence; of other errors nothing."""
    if not isinstance(error, pikepdf.PdfError):
        return "."
    return f": {_without(source, str(error)).removesuffix('.')}."


def _without(source: Path, said: str) -> str:
    return said.replace(str(source), "").lstrip(": ").strip()


def _require_header(source: Path) -> None:
    with source.open("rb") as file:
        head = file.read(_HEADER_WITHIN)
    if not head:
        raise NotAPdf("The file is empty, not a PDF.")
    if head.startswith(b"PK\x03\x04"):
        raise NotAPdf("The file is a ZIP archive, not a PDF.")
    if b"%PDF-" not in head:
        raise NotAPdf("The file is not a PDF: it has no PDF header at its beginning.")


def _require_objects(source: Path) -> None:
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if not _OBJECT.search(whole):
            raise NotAPdf("The file is not a PDF: it has a PDF header and no objects.")


def limit_memory() -> None:
    """Keep a few bytes from unpacking to gigabytes; qpdf holds these limits per process."""
    pikepdf.settings.set_qpdf_limits(
        max_stream_filters=_FILTERS_MAX,
        flate_max_memory=UNPACKED_BYTES_MAX,
        run_length_max_memory=UNPACKED_BYTES_MAX,
        png_max_memory=UNPACKED_BYTES_MAX,
        tiff_max_memory=UNPACKED_BYTES_MAX,
    )
    pikepdf.settings.set_flate_compression_level(9)


def objects_of(pdf: Pdf) -> list[Object]:
    """The indirect objects of a document, but for plain numbers and the like."""
    return [thing for thing in pdf.objects if isinstance(thing, Object)]


def is_signed(pdf: Pdf) -> bool:
    """Whether a change would break a signature, a certification or granted usage rights.

    An empty signature field does not count, nor does bit 1 of /SigFlags, which only says that
    there is such a field.
    """
    permissions = pdf.Root.get(Name.Perms)
    if isinstance(permissions, Dictionary) and len(permissions) > 0:
        return True
    form = pdf.Root.get(Name.AcroForm)
    if not isinstance(form, Dictionary):
        return False
    flags = form.get_int(Name.SigFlags, 0) or 0
    return bool(flags & _APPEND_ONLY) or _has_signature_value(form)


def _has_signature_value(form: Dictionary) -> bool:
    seen = pikepdf.ObjectSet()
    pending = list(form.get_list(Name.Fields) or [])
    while pending and len(seen) < _FIELDS_MAX:
        field = pending.pop()
        if not isinstance(field, Dictionary) or not seen.add(field):
            continue
        if isinstance(field.get(Name.V), Dictionary) and Name.ByteRange in field.V:
            return True
        if field.get(Name.FT) == Name.Sig and Name.V in field:
            return True
        pending.extend(field.get_list(Name.Kids) or [])
    return False


def pdfa_claim(pdf: Pdf) -> str | None:
    """The part and level of ISO 19005 that a document says it conforms to, as "2b", or None."""
    said = _metadata_of(pdf)
    part, level = _PDFA_PART.search(said), _PDFA_LEVEL.search(said)
    if part is None:
        return None
    return part[1].decode() + (level[1].decode().lower() if level else "")


def pdfua_claim(pdf: Pdf) -> str | None:
    """The part of ISO 14289 that a document says it conforms to, or None."""
    part = _PDFUA_PART.search(_metadata_of(pdf))
    return part[1].decode() if part else None


def _metadata_of(pdf: Pdf) -> bytes:
    """The XMP of a document, or nothing; so much as anybody would write."""
    metadata = pdf.Root.get(Name.Metadata)
    if not isinstance(metadata, pikepdf.Stream):
        return b""
    try:
        return metadata.read_bytes()[:_METADATA_BYTES_MAX]
    except MALFORMED:
        return b""


def save_pdf(pdf: Pdf, target: BinaryIO, progress: Progress, start: float, end: float) -> None:
    """Write a PDF as small as its structure allows, encrypted as it was.

    The same document gives the same bytes, except for an encrypted one, whose initialisation
    vectors are random. Raises DamagedPdf when the document cannot be written.
    """
    # ISO 19005-1 builds on PDF 1.4, which has no object streams.
    packed = pikepdf.ObjectStreamMode.generate
    if (pdfa_claim(pdf) or "").startswith("1"):
        packed = pikepdf.ObjectStreamMode.disable
    try:
        pdf.save(
            target,
            object_stream_mode=packed,
            compress_streams=True,
            fix_metadata_version=False,  # metadata stays as it was, byte for byte
            encryption=pdf.is_encrypted,
            deterministic_id=not pdf.is_encrypted,
            progress=lambda percent: progress(start + (end - start) * percent / 100),
        )
    except MALFORMED as error:
        raise DamagedPdf("The PDF is damaged and cannot be written again.") from error
