"""Packing the streams that are no images: page contents, fonts, attachments."""

from pikepdf import Name, Stream

from backend.compression.engine.encoders import pack
from backend.compression.engine.errors import UNDECODABLE
from backend.compression.engine.samples import is_lossless

# The last two are the old file's own structure, which is not written again.
_LEFT = {"/Metadata", "/XRef", "/ObjStm"}


def deflated(stream: Stream, data: bytes | None = None) -> bytes | None:
    """A stream's contents, or `data` in their place, packed; None when that is no smaller.

    Metadata is left alone: it is to be found by programs that read no PDF (ISO 16684-3). A
    stream that does not unpack, or to more than is allowed, is left as it is.
    """
    if str(stream.get(Name.Type)) in _LEFT or not is_lossless(stream):
        return None
    try:
        packed = pack(stream.read_bytes() if data is None else data)
        return packed if len(packed) < len(stream.get_raw_stream_buffer()) else None
    except UNDECODABLE:
        return None
