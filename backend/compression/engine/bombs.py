"""Refusing the documents that are made to take all time and memory (CWE-409)."""

import zlib
from collections.abc import Iterable, Iterator

from pikepdf import Name, Pdf, Stream

from backend.compression.engine.document import UNPACKED_BYTES_MAX, objects_of
from backend.compression.engine.errors import MALFORMED, UNDECODABLE, TooElaborate
from backend.compression.engine.samples import PIXELS_MAX, filters_of, is_lossless

# Always, and for each byte of the file: scans in black and white unpack to fifty times their size
# by Flate, and photos of few details to as many pixels.
_ALWAYS, _TIMES = 512 * 2**20, 100
_FLATE_TIMES = 1032  # what one byte becomes at most (zlib's technical details)
_CHUNK = 2**18
_LZW_TIMES = 2600  # at most; of the filters but Flate, no other unpacks to so much
_OBJECTS_MAX = 500_000
_FLATES = {"/FlateDecode", "/Fl"}
_FAXES = {"/CCITTFaxDecode", "/CCF"}


def refuse_bombs(pdf: Pdf, file_bytes: int) -> None:
    """Raise TooElaborate when an open document has too many objects, or unpacks to too much.

    It is unpacked to be told, and nothing is kept. Half a gigabyte is always allowed, and a hundred
    times the size of the file.
    """
    count = len(pdf.objects)
    if count > _OBJECTS_MAX:
        raise TooElaborate(f"The PDF has {count} objects; it can have {_OBJECTS_MAX}.")
    left = most = _ALWAYS + _TIMES * file_bytes
    streams = [thing for thing in objects_of(pdf) if isinstance(thing, Stream)]
    if sum(_most_unpacked_bytes(stream) for stream in streams) <= most:
        return
    for stream in streams:
        left -= _unpacked_bytes(stream)
        if left < 0:
            raise TooElaborate(
                f"The PDF of {file_bytes} bytes unpacks to more than {most},"
                " which is more than any document needs."
            )


def _most_unpacked_bytes(stream: Stream) -> int:
    """What a stream unpacks to at most, by its size alone."""
    filters = filters_of(stream)
    if not is_lossless(stream):
        return UNPACKED_BYTES_MAX
    packed = len(stream.get_raw_stream_buffer())
    times: int = (_FLATE_TIMES if set(filters) <= _FLATES else _LZW_TIMES) ** len(filters)
    return min(UNPACKED_BYTES_MAX, packed * times)


def _unpacked_bytes(stream: Stream) -> int:
    """How much is unpacked of a stream, or how many pixels there are in what has a codec."""
    filters = filters_of(stream)
    try:
        packed = stream.read_raw_bytes()
    except MALFORMED:
        return 0
    if set(filters) <= _FLATES:
        return _inflated_bytes(packed, len(filters))
    if is_lossless(stream):
        try:
            return len(stream.read_bytes())
        except UNDECODABLE:  # damaged, or past a limit: nobody knows how far it got
            return min(UNPACKED_BYTES_MAX, _LZW_TIMES * len(packed))
    pixels = (stream.get_int(Name.Width, 0) or 0) * (stream.get_int(Name.Height, 0) or 0)
    if not 0 < pixels <= PIXELS_MAX:
        return 0  # it is left as it is
    return pixels // 8 if filters[-1] in _FAXES else pixels


def _inflated_bytes(data: bytes, times: int) -> int:
    pieces: Iterable[bytes] = [data]
    for _ in range(times):
        pieces = _inflated(pieces)
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > UNPACKED_BYTES_MAX:
            return UNPACKED_BYTES_MAX  # more is never unpacked
    return total


def _inflated(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What a zlib stream unpacks to, in pieces, until it ends or breaks off."""
    unpacker = zlib.decompressobj()
    for piece in pieces:
        rest = piece
        while rest and not unpacker.eof:
            try:
                yield unpacker.decompress(rest, _CHUNK)
            except zlib.error:
                return
            rest = unpacker.unconsumed_tail
