"""JBIG2 for bitmaps: ITU-T T.88, an immediate lossless generic region on a page of its own.

The arithmetic coder is native/jbig2.c, which `scripts/build` compiles; without it there is no
JBIG2, and bitmaps are stored as Group 4.
"""

import ctypes
import struct
from functools import cache
from pathlib import Path

LIBRARY = Path(__file__).with_name("native") / "jbig2.so"

_PAGE_INFORMATION, _LOSSLESS_GENERIC_REGION = 48, 39
_TYPICAL_PREDICTION = 0x08
_ADAPTIVE_PIXELS = bytes([3, 0xFF, 0xFD, 0xFF, 2, 0xFE, 0xFE, 0xFE])  # where 6.2.5.4 has them
_PAGE = 1


def encode(rows: bytes, width: int, height: int) -> bytes | None:
    """Packed rows of 1 bit, exactly, as what /JBIG2Decode reads (ISO 32000-2, 7.4.7).

    A bit of 1 is white, as it is in /DeviceGray. The result is None where the coder was not
    compiled, and where it would be larger than `rows`.
    """
    library = _library()
    if library is None:
        return None
    ink = _inverted(rows, width)
    most = len(ink)
    data = ctypes.create_string_buffer(most)
    work = ctypes.create_string_buffer(library.jbig2_work_bytes())
    size = library.jbig2_encode(ink, width, height, data, most, work)
    if size > most:
        return None
    region = struct.pack(">IIIIBB", width, height, 0, 0, 0, _TYPICAL_PREDICTION)
    page = struct.pack(">IIIIBH", width, height, 0, 0, 0, 0)
    return _segment(0, _PAGE_INFORMATION, page) + _segment(
        1, _LOSSLESS_GENERIC_REGION, region + _ADAPTIVE_PIXELS + data.raw[:size]
    )


def _segment(number: int, kind: int, data: bytes) -> bytes:
    return struct.pack(">IBBBI", number, kind, 0, _PAGE, len(data)) + data


def _inverted(rows: bytes, width: int) -> bytes:
    """1 for black, and the bits after each row's last pixel 0."""
    ink = bytearray(rows.translate(_NOT))
    spare = -width % 8
    if spare:
        stride, mask = (width + 7) // 8, 0xFF << spare & 0xFF
        last = ink[stride - 1 :: stride]
        ink[stride - 1 :: stride] = last.translate(bytes(byte & mask for byte in range(256)))
    return bytes(ink)


_NOT = bytes(255 - byte for byte in range(256))


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    library.jbig2_work_bytes.restype = ctypes.c_size_t
    library.jbig2_encode.restype = ctypes.c_size_t
    library.jbig2_encode.argtypes = [
        ctypes.c_char_p,
        ctypes.c_long,
        ctypes.c_long,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_char_p,
    ]
    return library
