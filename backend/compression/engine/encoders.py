"""The ways to store samples in a PDF: Flate with predictors, Group 4 fax, JPEG."""

import io
import struct
import zlib
from dataclasses import dataclass

from pikepdf import Dictionary, Name
from PIL import Image, ImageChops
from PIL.TiffImagePlugin import TiffImageFile

from backend.compression.engine.levels import Aim
from backend.compression.engine.samples import Size

_PNG_SIGNATURE_BYTES = 8
_CHUNK_FRAME_BYTES = 12  # length, type and checksum of a chunk
_COMPONENTS = {"L": 1, "RGB": 3, "CMYK": 4}
_TIFF_STRIP_OFFSETS, _TIFF_STRIP_BYTES = 273, 279
# The mean of the luminance table in ITU-T T.81, annex K, which libjpeg calls quality 50.
_TABLE_MEAN = 57.625


@dataclass(frozen=True, slots=True)
class Encoded:
    """A stream's bytes, and the filter and parameters that read them."""

    data: bytes
    filter: Name
    parameters: Dictionary | None


def flate(picture: Image.Image) -> Encoded:
    """Samples of 8 bits, exactly, with PNG predictors where they help.

    Photos gain a third by them; flat colours and screenshots are often smaller without.
    """
    plain = zlib.compress(picture.tobytes(), 9)
    predicted = _predicted(picture)
    if len(plain) <= len(predicted.data):
        return Encoded(plain, Name.FlateDecode, None)
    return predicted


def _predicted(picture: Image.Image) -> Encoded:
    """Samples as the rows of a PNG file, each with the predictor that suits it best."""
    count = _COMPONENTS[picture.mode]
    if picture.mode == "CMYK":  # PNG has no such thing, and four channels are four channels
        picture = Image.frombytes("RGBA", picture.size, picture.tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=9, icc_profile=None)
    parameters = Dictionary(Predictor=15, Colors=count, BitsPerComponent=8, Columns=picture.width)
    return Encoded(_png_data(file.getvalue()), Name.FlateDecode, parameters)


def _png_data(png: bytes) -> bytes:
    """The joined IDAT chunks of a PNG file, which are one Flate stream (ISO 15948, 10.1)."""
    parts, at = [], _PNG_SIGNATURE_BYTES
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"IDAT":
            parts.append(png[at + 8 : at + 8 + length])
        at += length + _CHUNK_FRAME_BYTES
    return b"".join(parts)


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
    """Samples as a progressive JPEG."""
    if picture.mode == "CMYK":  # Pillow writes inks inverted, as Adobe does, and PDF reads them so
        picture = ImageChops.invert(picture)
    file = io.BytesIO()
    picture.save(
        file,
        "JPEG",
        quality=aim.quality,
        subsampling=aim.subsampling,
        optimize=True,
        progressive=True,
    )
    return Encoded(file.getvalue(), Name.DCTDecode, None)


def is_coarse(tables: dict[int, list[int]], quality: int) -> bool:
    """Whether a JPEG's quantisation tables are as coarse already as libjpeg's at `quality`."""
    luminance = tables.get(0)
    if not luminance:
        return False
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    return sum(luminance) / len(luminance) >= _TABLE_MEAN * scale
