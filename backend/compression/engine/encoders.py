"""The ways to store samples in a PDF: Flate with predictors, JBIG2, Group 4 fax, JPEG."""

import io
import math
from dataclasses import dataclass

import deflate
import mozjpeg_lossless_optimization
import numpy as np
import pyvips
from numpy.typing import NDArray
from pikepdf import Dictionary, Name
from PIL import Image, ImageChops
from PIL.TiffImagePlugin import TiffImageFile

from backend.compression.engine import jbig2
from backend.compression.engine.caps import require_memory
from backend.compression.engine.levels import Aim
from backend.compression.engine.samples import Size

_TIFF_STRIP_OFFSETS, _TIFF_STRIP_BYTES = 273, 279
# The mean of the luminance table in ITU-T T.81, annex K, which libjpeg calls quality 50.
_TABLE_MEAN = 57.625
# Of libdeflate's twelve strengths, by the most bytes that are packed so: the stronger, the slower.
_STRENGTHS = ((256 * 1024, 12), (16 * 2**20, 10))
_STRENGTH = 9
_LARGE = 256 * 1024
_WORKING_BYTES = 16 * 2**20  # of libdeflate and libvips, which end the process without them
_PREDICTED_ROWS = 256  # at a time
_MISJUDGED = 4 / 3
_GUESSED_ROWS = 8  # of each 64, from which it is told whether predictors help

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A stream's bytes, and the filter and parameters that read them."""

    data: bytes
    filter: Name
    parameters: Dictionary | None


def pack(data: bytes) -> bytes:
    """Bytes as a zlib stream, packed by libdeflate as small as is worth its time."""
    strength = next((each for most, each in _STRENGTHS if len(data) <= most), _STRENGTH)
    if len(data) > _LARGE:
        require_memory(len(data) + _WORKING_BYTES)
    return bytes(deflate.zlib_compress(data, strength))


def flate(picture: Image.Image, most: float = math.inf) -> Encoded | None:
    """Samples of 8 bits, exactly, with PNG predictors where they help.

    Photos gain a third by them; flat colours and screenshots are often smaller without. None
    where an eighth of the rows says that it would take more than `most` bytes.
    """
    rows = np.asarray(picture)
    count = 1 if rows.ndim == 2 else rows.shape[2]
    return flate_rows(rows.reshape(picture.height, -1), count, 8, picture.width, most)


def wavelets(picture: Image.Image) -> Encoded:
    """Samples of 8 bits, exactly, as JPEG 2000, which takes less than Flate for photos."""
    file = io.BytesIO()
    components = int(picture.mode == "RGB")  # are decorrelated, which is exact too
    picture.save(file, "JPEG2000", irreversible=False, mct=components)
    return Encoded(file.getvalue(), Name.JPXDecode, None)


def flate_rows(
    rows: Bytes, count: int, bits: int, width: int, most: float = math.inf
) -> Encoded | None:
    """Packed rows of `width` samples of `count` components of so many bits, as above."""
    guess = np.concatenate([rows[at : at + _GUESSED_ROWS] for at in range(0, len(rows), 64)])
    plain, predicted = (
        len(deflate.zlib_compress(each.tobytes(), 6)) for each in (guess, _predicted(guess, count))
    )
    # What was left out is like what was looked at, give or take a third.
    if min(plain, predicted) / len(guess) * len(rows) > most * _MISJUDGED:
        return None
    if plain <= predicted:
        return Encoded(pack(rows.tobytes()), Name.FlateDecode, None)
    parameters = Dictionary(Predictor=15, Colors=count, BitsPerComponent=bits, Columns=width)
    return Encoded(pack(_predicted(rows, count).tobytes()), Name.FlateDecode, parameters)


def _predicted(rows: Bytes, count: int) -> Bytes:
    """Rows as in a PNG file, each with the predictor that leaves least (ISO 15948, 9 and 12.8)."""
    height, width = rows.shape
    result = np.empty((height, width + 1), np.uint8)
    above = np.zeros(width, np.uint8)
    for start in range(0, height, _PREDICTED_ROWS):
        part = rows[start : start + _PREDICTED_ROWS]
        up = np.concatenate([above[None], part[:-1]])
        left = _shifted(part, count)
        candidates = [
            part,
            part - left,
            part - up,
            part - ((left.astype(np.uint16) + up) // 2).astype(np.uint8),
            part - _paeth(left, up, _shifted(up, count)),
        ]
        costs = [
            np.abs(each.view(np.int8)).astype(np.uint8).sum(1, np.uint64) for each in candidates
        ]
        best = np.argmin(costs, axis=0)
        block = result[start : start + len(part)]
        block[:, 0] = best
        block[:, 1:] = np.choose(best[:, None], candidates)
        above = part[-1]
    return result


def _shifted(rows: Bytes, count: int) -> Bytes:
    """Each sample's neighbour on the left."""
    left = np.zeros_like(rows)
    left[:, count:] = rows[:, :-count]
    return left


def _paeth(left: Bytes, up: Bytes, corner: Bytes) -> Bytes:
    a, b, c = (each.astype(np.int16) for each in (left, up, corner))
    by_left, by_up, by_corner = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    chosen = np.where(by_up <= by_corner, up, corner)
    chosen = np.where((by_left <= by_up) & (by_left <= by_corner), left, chosen)
    return chosen.astype(np.uint8)


def bilevel(rows: bytes, size: Size) -> Encoded | None:
    """Packed rows of 1 bit, exactly, as JBIG2, or as Group 4 where that cannot be had.

    None where neither can be had.
    """
    width, height = size
    data = jbig2.encode(rows, width, height)
    if data is not None:
        return Encoded(data, Name.JBIG2Decode, None)
    return fax(rows, size)


def fax(rows: bytes, size: Size) -> Encoded | None:
    """Packed rows of 1 bit, exactly, as ITU-T T.6 (Group 4)."""
    width, height = size
    picture = Image.frombytes("1", size, rows)
    file = io.BytesIO()
    picture.save(file, "TIFF", compression="group4", strip_size=2**31 - 1)
    tiff = file.getvalue()
    with TiffImageFile(io.BytesIO(tiff)) as written:
        offsets, lengths = (written.tag_v2[tag] for tag in (_TIFF_STRIP_OFFSETS, _TIFF_STRIP_BYTES))
    if len(offsets) != 1:
        return None
    parameters = Dictionary(K=-1, Columns=width, Rows=height, BlackIs1=True)
    data = tiff[offsets[0] : offsets[0] + lengths[0]]
    return Encoded(data, Name.CCITTFaxDecode, parameters)


def jpeg(picture: Image.Image, aim: Aim) -> Encoded:
    """Samples as a progressive JPEG, by mozjpeg where that can: it takes no inks here."""
    if picture.mode == "CMYK":  # Pillow writes inks inverted, as Adobe does, and PDF reads them so
        file = io.BytesIO()
        ImageChops.invert(picture).save(
            file,
            "JPEG",
            quality=aim.quality,
            subsampling=aim.subsampling,
            optimize=True,
            progressive=True,
        )
        return Encoded(file.getvalue(), Name.DCTDecode, None)
    bands = len(picture.getbands())
    # The samples, their coefficients of two bytes each, and what is written.
    require_memory(picture.width * picture.height * bands * 4 + _WORKING_BYTES)
    image = pyvips.Image.new_from_memory(
        picture.tobytes(), picture.width, picture.height, bands, "uchar"
    )
    image = image.copy(interpretation="srgb" if bands == 3 else "b-w")
    data = image.jpegsave_buffer(
        Q=aim.quality,
        optimize_coding=True,
        interlace=True,
        trellis_quant=True,
        overshoot_deringing=True,
        quant_table=0,
        subsample_mode="off" if aim.subsampling == "4:4:4" else "on",
        keep="none",
    )
    return Encoded(data, Name.DCTDecode, None)


def optimised(data: bytes) -> Encoded:
    """A JPEG with the same pixels, progressive and with Huffman tables of its own.

    Raises ValueError when it is damaged.
    """
    return Encoded(mozjpeg_lossless_optimization.optimize(data), Name.DCTDecode, None)


def is_coarse(tables: dict[int, list[int]], quality: int) -> bool:
    """Whether a JPEG's quantisation tables are as coarse already as libjpeg's at `quality`."""
    luminance = tables.get(0)
    if not luminance:
        return False
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    return sum(luminance) / len(luminance) >= _TABLE_MEAN * scale
