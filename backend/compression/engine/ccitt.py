"""Reading what /CCITTFaxDecode reads (ISO 32000-2, 7.4.6), by libtiff."""

import io
import struct

from pikepdf import Dictionary
from PIL import Image

_GROUP_3, _GROUP_4 = 3, 4
_TWO_DIMENSIONS = 1  # bit of T4Options
_SHORT, _LONG = 3, 4
_INVERTED = bytes(255 - byte for byte in range(256))


def rows_of(data: bytes, parameters: Dictionary | None, width: int, height: int) -> bytes | None:
    """The packed rows of a fax, or None for a way of coding that libtiff does not know.

    Raises OSError or ValueError when the data is damaged.
    """
    told = parameters if parameters is not None else Dictionary()
    if told.get("/EncodedByteAlign", False) or told.get_int("/Columns", 1728) != width:
        return None
    rows = told.get_int("/Rows", 0)
    if rows and rows != height:
        return None
    k = told.get_int("/K", 0) or 0
    tags = [
        (256, _LONG, width),
        (257, _LONG, height),
        (258, _SHORT, 1),
        (259, _SHORT, _GROUP_4 if k < 0 else _GROUP_3),
        (262, _SHORT, 0),  # 0 is white: the bits come out as PDF has them by default
        (273, _LONG, 0),
        (277, _SHORT, 1),
        (278, _LONG, height),
        (279, _LONG, len(data)),
    ]
    if k >= 0:
        tags.append((292, _LONG, _TWO_DIMENSIONS if k > 0 else 0))
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack("<HHII", tag, kind, 1, start if tag == 273 else value)
        for tag, kind, value in tags
    )
    file = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data
    with Image.open(io.BytesIO(file), formats=("TIFF",)) as picture:
        decoded = picture.tobytes()
    return decoded.translate(_INVERTED) if told.get("/BlackIs1", False) else decoded
