"""Reading one image XObject's samples, as they are stored (ISO 32000-2, 8.9).

Samples are neither decoded through /Decode nor colour managed: they are read, and written again
with the same /Decode and /ColorSpace, so that nothing can be mistaken on the way.
"""

import io
import zlib
from dataclasses import dataclass

from pikepdf import Array, Dictionary, Name, Object, Stream
from PIL import Image, ImageChops

from backend.compression.engine import ccitt
from backend.compression.engine.colour import components_of, palette_of

Size = tuple[int, int]

# Larger images stay as they are: unpacking one takes four bytes a pixel and more.
PIXELS_MAX = 100_000_000
_JPEG_BYTES_MAX = 256 * 2**20

_MODES = {1: "L", 3: "RGB", 4: "CMYK"}
_LOSSLESS_FILTERS = {
    "/FlateDecode",
    "/LZWDecode",
    "/ASCII85Decode",
    "/ASCIIHexDecode",
    "/RunLengthDecode",
}


@dataclass(frozen=True, slots=True)
class Samples:
    """An image's component values.

    `picture` has mode L, RGB or CMYK, for 1, 3 or 4 components of 8 bits. `space` is the colour
    space that the values are in. `lossless` says that they were stored exactly.
    """

    picture: Image.Image
    space: Object
    lossless: bool


def filters_of(stream: Stream) -> tuple[str, ...]:
    """The names of a stream's filters, outermost first."""
    names = stream.get(Name.Filter)
    if names is None:
        return ()
    return tuple(str(name) for name in names) if isinstance(names, Array) else (str(names),)


def is_lossless(stream: Stream) -> bool:
    """Whether a stream is stored plainly or with general-purpose compression alone."""
    return set(filters_of(stream)) <= _LOSSLESS_FILTERS and Name.F not in stream


def _parameters_of(image: Stream) -> Dictionary | None:
    """What the only filter of an image is told."""
    parameters = image.get(Name.DecodeParms)
    if isinstance(parameters, Array):
        parameters = parameters[0] if len(parameters) == 1 else None
    return parameters if isinstance(parameters, Dictionary) else None


def size_of(image: Stream) -> Size:
    """Width and height in samples; raises ValueError when they are missing or out of bounds."""
    width, height = image.get_int(Name.Width, 0) or 0, image.get_int(Name.Height, 0) or 0
    if width < 1 or height < 1 or width * height > PIXELS_MAX:
        raise ValueError(f"an image of {width} by {height} samples")
    return width, height


def bilevel_rows(image: Stream) -> bytes | None:
    """The packed rows of an image of 1 bit and 1 component, else None."""
    fax = filters_of(image) == ("/CCITTFaxDecode",) and Name.F not in image
    if not (fax or is_lossless(image)) or _bits(image) != 1:
        return None
    space = image.get(Name.ColorSpace)
    if not _is_stencil(image) and components_of(space) != 1 and palette_of(space) is None:
        return None
    width, height = size_of(image)
    expected = (width + 7) // 8 * height
    if fax:
        rows = ccitt.rows_of(image.read_raw_bytes(), _parameters_of(image), width, height)
        if rows is None:
            return None
    else:
        rows = image.read_bytes()
    return rows[:expected] if len(rows) >= expected else None


def read_samples(image: Stream, wanted: Size) -> Samples | None:
    """The samples of an image, or None for one that is best left alone.

    An image that is a JPEG may come smaller than it is, yet never smaller than `wanted`. Raises
    one of errors.UNDECODABLE when the image is broken.
    """
    if _is_stencil(image) or isinstance(image.get(Name.Mask), Array) or Name.F in image:
        return None
    if is_transformed(image):
        return None
    if is_lossless(image):
        return _plain(image)
    filters = filters_of(image)
    if filters == ("/DCTDecode",):
        return _jpeg(image, image.read_raw_bytes(), wanted)
    if filters == ("/FlateDecode", "/DCTDecode"):
        return _jpeg(image, _inflate(image.read_raw_bytes()), wanted)
    if filters == ("/JPXDecode",):
        return _jpeg2000(image)
    return None


def is_transformed(image: Stream) -> bool:
    """Whether a parameter, and not the JPEG itself, says what its colours are (7.4.8)."""
    parameters = image.get(Name.DecodeParms)
    each = parameters if isinstance(parameters, Array) else [parameters]
    return any(isinstance(one, Dictionary) and Name.ColorTransform in one for one in each)


def open_jpeg(data: bytes) -> Image.Image:
    """A JPEG whose header has been read and whose pixels have not."""
    return Image.open(io.BytesIO(data), formats=("JPEG",))


def _is_stencil(image: Stream) -> bool:
    return bool(image.get(Name.ImageMask, False))


def _bits(image: Stream) -> int:
    return 1 if _is_stencil(image) else image.get_int(Name.BitsPerComponent, 8) or 8


def _plain(image: Stream) -> Samples | None:
    bits, space = _bits(image), image.get(Name.ColorSpace)
    palette = palette_of(space)
    if palette is not None:
        if bits == 1 or Name.Decode in image:
            return None
        picture = _unpack(image, "P", 1, bits)
        if palette.components == 1:
            return Samples(_gray(picture, palette.table), palette.base, lossless=True)
        picture.putpalette(palette.table)
        return Samples(picture.convert("RGB"), palette.base, lossless=True)
    count = components_of(space)
    if space is None or count is None or bits == 1:
        return None
    return Samples(_unpack(image, _MODES[count], count, bits), space, lossless=True)


def _gray(indices: Image.Image, table: bytes) -> Image.Image:
    return Image.frombytes("L", indices.size, indices.tobytes().translate(table))


def _unpack(image: Stream, mode: str, count: int, bits: int) -> Image.Image:
    width, height = size = size_of(image)
    packed = image.read_bytes()
    if bits == 16:
        packed, bits = packed[::2], 8  # the high bytes; 8 bits are what JPEG holds
    if bits != 8 and count != 1:
        raise ValueError(f"{count} components of {bits} bits")
    stride = (width * count * bits + 7) // 8
    if len(packed) < stride * height:
        raise ValueError(f"{len(packed)} bytes of samples, not {stride * height}")
    layout = mode if bits == 8 else f"{mode};{bits}"
    return Image.frombytes(mode, size, packed[: stride * height], "raw", layout, stride)


def _jpeg(image: Stream, data: bytes, wanted: Size) -> Samples | None:
    picture = open_jpeg(data)
    space = image.get(Name.ColorSpace)
    count = components_of(space)
    if space is None or count is None or picture.mode != _MODES[count]:
        return None
    if picture.size != size_of(image) or (count == 4 and "adobe" not in picture.info):
        return None  # without Adobe's marker nobody agrees whether 0 is ink or paper
    picture.draft(picture.mode, wanted)
    picture.load()
    if count == 4:  # Pillow turns Adobe's inverted inks round, and PDF does not
        return Samples(ImageChops.invert(picture), space, lossless=False)
    return Samples(picture, space, lossless=False)


def _jpeg2000(image: Stream) -> Samples | None:
    picture = Image.open(io.BytesIO(image.read_raw_bytes()), formats=("JPEG2000",))
    space = image.get(Name.ColorSpace)
    if image.get_int(Name.SMaskInData, 0) or picture.size != size_of(image):
        return None
    if picture.mode not in {"L", "RGB"}:
        return None
    if space is None:
        space = Name.DeviceGray if picture.mode == "L" else Name.DeviceRGB
    if _MODES.get(components_of(space) or 0) != picture.mode:
        return None
    picture.load()
    return Samples(picture, space, lossless=False)


def _inflate(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, _JPEG_BYTES_MAX)
