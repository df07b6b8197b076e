"""Packing the streams that are no images: page contents, fonts, attachments."""

from pikepdf import Name, Stream

from backend.compression.engine.encoders import pack
from backend.compression.engine.errors import UNDECODABLE
from backend.compression.engine.samples import is_lossless

# The old file's own structure, which is not written again.
_LEFT = {"/XRef", "/ObjStm"}


def deflated(stream: Stream, data: bytes | None = None, *, archived: bool = False) -> bytes | None:
    """A stream's contents, or `data` in their place, packed; None when that is no smaller.

    In an `archived` document metadata is left alone: it is to be found by programs that read no
    PDF (ISO 19005-1, 6.7.2). A stream that does not unpack, or to more than is allowed, is left as
    it is.
    """
    kind = str(stream.get(Name.Type))
    if kind in _LEFT or (archived and kind == "/Metadata") or not is_lossless(stream):
        return None
    try:
        packed = pack(stream.read_bytes() if data is None else data)
        return packed if len(packed) < len(stream.get_raw_stream_buffer()) else None
    except UNDECODABLE:
        return None
