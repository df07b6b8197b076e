"""Storing one image XObject in fewer bytes."""

import math
from dataclasses import dataclass

from pikepdf import Array, Name, Object, Stream
from PIL import Image

from backend.compression.engine.encoders import Encoded, bilevel, flate, is_coarse, jpeg
from backend.compression.engine.errors import UNDECODABLE
from backend.compression.engine.levels import Aim
from backend.compression.engine.samples import (
    Samples,
    Size,
    bilevel_rows,
    filters_of,
    is_lossless,
    open_jpeg,
    read_samples,
    size_of,
)
from backend.compression.engine.survey import Placement

# Images of fewer bytes are icons: nothing to gain, and sharp edges to lose.
_LOSSY_FROM_BYTES = 2048
# Going from 160 to 150 dpi blurs an image and saves little.
_SHRINK_FROM = 1.1
# A second lossy generation must be worth it; exact copies are welcome for any gain.
_LOSSY_GAIN = 0.9
# Flat colours and text stay exact, as long as that costs no more than this over a JPEG.
_EXACT_COST_MAX = 1.25


@dataclass(frozen=True, slots=True)
class Recoded:
    """Another way to store an image. `space` is None when the colour space stays as it is."""

    encoded: Encoded
    size: Size
    space: Object | None = None
    bits: int = 8


def recode(
    image: Stream, aim: Aim | None, placement: Placement | None, *, soft_mask: bool
) -> Recoded | None:
    """A smaller way to store an image, or None to leave it as it is.

    `aim` None keeps every sample. `placement` is the largest size at which the image is drawn,
    None when that is unknown; then it keeps its resolution. A soft mask stays exact unless it is
    a JPEG already. A broken image is left as it is.
    """
    try:
        rows = bilevel_rows(image)
        if rows is not None:
            return _bilevel(image, rows)
        if aim is None or image.stream_dict.get(Name.Length, 0) < _LOSSY_FROM_BYTES:
            return _exact(image)
        return _lossy(image, aim, placement, soft_mask=soft_mask)
    except UNDECODABLE:
        return None


def replace(image: Stream, recoded: Recoded) -> None:
    """Store an image in its new way, in place."""
    encoded = recoded.encoded
    image.write(encoded.data, filter=encoded.filter, decode_parms=encoded.parameters)
    image.Width, image.Height = recoded.size
    if not image.get(Name.ImageMask, False):
        image.BitsPerComponent = recoded.bits
    if recoded.space is not None:
        image.ColorSpace = recoded.space


def _bilevel(image: Stream, rows: bytes) -> Recoded | None:
    size = size_of(image)
    encoded = bilevel(rows, size)
    if encoded is None or len(encoded.data) >= _stored_bytes(image):
        return None
    return Recoded(encoded, size, bits=1)


def _exact(image: Stream) -> Recoded | None:
    if not is_lossless(image) or image.get(Name.BitsPerComponent) != 8 or _is_indexed(image):
        return None
    size = size_of(image)
    samples = read_samples(image, size)
    if samples is None:
        return None
    encoded = flate(samples.picture)
    return Recoded(encoded, size) if len(encoded.data) < _stored_bytes(image) else None


def _lossy(
    image: Stream, aim: Aim, placement: Placement | None, *, soft_mask: bool
) -> Recoded | None:
    if _has_matte(image):
        return _exact(image)
    size = size_of(image)
    wanted = fitted(size, placement, aim.dpi)
    if wanted == size and _is_coarse_jpeg(image, aim):
        return None
    samples = read_samples(image, wanted)
    if samples is None:
        return _exact(image)
    picture = samples.picture
    if picture.size != wanted:
        picture = picture.resize(wanted, Image.Resampling.LANCZOS)
    encoded = _smallest(picture, samples, aim, soft_mask=soft_mask)
    exact = encoded.filter == Name.FlateDecode and wanted == size
    if len(encoded.data) >= _stored_bytes(image) * (1.0 if exact else _LOSSY_GAIN):
        return None
    return Recoded(encoded, wanted, space=samples.space)


def _smallest(picture: Image.Image, samples: Samples, aim: Aim, *, soft_mask: bool) -> Encoded:
    if not samples.lossless:
        return jpeg(picture, aim)
    exact = flate(picture)
    if soft_mask:
        return exact
    lossy = jpeg(picture, aim)
    return exact if len(exact.data) <= len(lossy.data) * _EXACT_COST_MAX else lossy


def fitted(size: Size, placement: Placement | None, dpi: int) -> Size:
    """The size in samples that gives at most `dpi` as placed; never larger than it is."""
    if placement is None:
        return size
    wanted = [
        max(1, min(samples, math.ceil(points / 72 * dpi)))
        for samples, points in zip(size, (placement.width, placement.height), strict=True)
    ]
    if all(now <= _SHRINK_FROM * then for now, then in zip(size, wanted, strict=True)):
        return size
    return wanted[0], wanted[1]


def _is_coarse_jpeg(image: Stream, aim: Aim) -> bool:
    if filters_of(image) != ("/DCTDecode",):
        return False
    tables = getattr(open_jpeg(image.read_raw_bytes()), "quantization", {})
    return is_coarse(tables, aim.quality)


def _has_matte(image: Stream) -> bool:
    """Whether colours are blended with a soft mask of the same size (ISO 32000-2, 11.6.5.2)."""
    mask = image.get(Name.SMask)
    return Name.Matte in image or (isinstance(mask, Stream) and Name.Matte in mask)


def _is_indexed(image: Stream) -> bool:
    space = image.get(Name.ColorSpace)
    return isinstance(space, Array) and len(space) > 0 and space[0] == Name.Indexed


def _stored_bytes(image: Stream) -> int:
    return len(image.get_raw_stream_buffer())
