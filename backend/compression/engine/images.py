"""Storing one image XObject in fewer bytes."""

import math
from dataclasses import dataclass

import numpy as np
from pikepdf import Array, Name, Object, Stream
from PIL import Image

from backend.compression.engine.encoders import (
    Encoded,
    bilevel,
    flate,
    flate_rows,
    is_coarse,
    jpeg,
    optimised,
    wavelets,
)
from backend.compression.engine.errors import UNDECODABLE
from backend.compression.engine.levels import Aim
from backend.compression.engine.palettes import reduced
from backend.compression.engine.samples import (
    Samples,
    Size,
    bilevel_rows,
    filters_of,
    is_lossless,
    is_transformed,
    open_jpeg,
    read_samples,
    size_of,
)
from backend.compression.engine.survey import Placement
from backend.compression.viewing.similarity import Pixels, similarity

# Images of fewer bytes are icons: nothing to gain, and sharp edges to lose.
_LOSSY_FROM_BYTES = 2048
# Going from 160 to 150 dpi blurs an image and saves little.
_SHRINK_FROM = 1.1
# A second lossy generation must be worth it; exact copies are welcome for any gain.
_LOSSY_GAIN = 0.9
# Photos keep so much of their bytes in Flate; JPEG 2000 is for them, and takes too long for large
# ones.
_PHOTO_SHARE, _WAVELETS_MAX = 0.25, 30_000_000
_VIEW_DPI = 100
# Flat colours and text stay exact, as long as that costs no more than this over a JPEG.
_EXACT_COST_MAX = 1.25


@dataclass(frozen=True, slots=True)
class Recoded:
    """Another way to store an image.

    `space` is None when the colour space stays as it is; `palette_bytes` is what it takes.
    """

    encoded: Encoded
    size: Size
    space: Object | None = None
    bits: int = 8
    palette_bytes: int = 0

    @property
    def bytes(self) -> int:
        """What it takes in the file, but for what every image has."""
        return len(self.encoded.data) + self.palette_bytes


def recode(
    image: Stream,
    aim: Aim | None,
    placement: Placement | None,
    *,
    soft_mask: bool,
    archived: bool = False,
) -> Recoded | None:
    """A smaller way to store an image, or None to leave it as it is.

    `aim` None keeps every sample. `placement` is the largest size at which the image is drawn,
    None when that is unknown; then it keeps its resolution. A soft mask stays exact unless it is
    a JPEG already. In an `archived` document, one that says it is PDF/A, nothing becomes JPEG 2000.
    A broken image is left as it is.
    """
    try:
        rows = bilevel_rows(image)
        if rows is not None:
            return _bilevel(image, rows, aim, placement)
        if aim is None or image.stream_dict.get(Name.Length, 0) < _LOSSY_FROM_BYTES:
            return _exact(image, soft_mask=soft_mask, archived=archived)
        return _lossy(image, aim, placement, soft_mask=soft_mask, archived=archived)
    except UNDECODABLE:
        return None


def is_bilevel(image: Stream) -> bool:
    """Whether an image has one bit a sample, by what it says."""
    return bool(image.get(Name.ImageMask, False)) or image.get_int(Name.BitsPerComponent, 8) == 1


def samples_in(image: Stream) -> int:
    """How many samples an image has, by what it says."""
    return (image.get_int(Name.Width, 0) or 0) * (image.get_int(Name.Height, 0) or 0)


def replace(image: Stream, recoded: Recoded) -> None:
    """Store an image in its new way, in place."""
    encoded = recoded.encoded
    image.write(encoded.data, filter=encoded.filter, decode_parms=encoded.parameters)
    image.Width, image.Height = recoded.size
    if not image.get(Name.ImageMask, False):
        image.BitsPerComponent = recoded.bits
    if recoded.space is not None:
        image.ColorSpace = recoded.space


def _bilevel(
    image: Stream, rows: bytes, aim: Aim | None, placement: Placement | None
) -> Recoded | None:
    size = size_of(image)
    if aim is not None and aim.bilevel_dpi:
        wanted = fitted(size, placement, aim.bilevel_dpi)
        coarser = _coarser(rows, size, wanted) if wanted != size else None
        if coarser is not None and _bits_alike(rows, size, coarser, wanted, placement) >= aim.floor:
            rows, size = coarser, wanted
    encoded = bilevel(rows, size)
    return _if_smaller(image, Recoded(encoded, size, bits=1)) if encoded else None


def _bits_alike(
    rows: bytes, size: Size, coarser: bytes, wanted: Size, placement: Placement | None
) -> float:
    view = fitted(size, placement, _VIEW_DPI)
    before, after = (
        _shades(Image.frombytes("1", each, data), view)
        for each, data in ((size, rows), (wanted, coarser))
    )
    return similarity(before, after)


def _coarser(rows: bytes, size: Size, wanted: Size) -> bytes:
    """Rows of black and white with fewer samples, each of what most of it was."""
    gray = Image.frombytes("1", size, rows).convert("L")
    smaller = gray.resize(wanted, Image.Resampling.BOX)
    return smaller.point([0] * 128 + [255] * 128).convert("1", dither=Image.Dither.NONE).tobytes()


def _exact(image: Stream, *, soft_mask: bool, archived: bool) -> Recoded | None:
    """The same samples in fewer bytes."""
    size = size_of(image)
    if is_transformed(image):
        return None
    if filters_of(image) == ("/DCTDecode",):
        return _if_smaller(image, Recoded(optimised(image.read_raw_bytes()), size))
    if not is_lossless(image) or image.get(Name.BitsPerComponent) != 8 or _is_indexed(image):
        return None
    samples = read_samples(image, size)
    if samples is None:
        return None
    most = float(_stored_bytes(image))
    found = _exactly(image, samples.picture, samples.space, soft_mask=soft_mask, most=most)
    if not (soft_mask or archived):
        found = _or_wavelets(image, samples, found)
    return found and _if_smaller(image, found)


def _or_wavelets(image: Stream, samples: Samples, found: Recoded | None) -> Recoded | None:
    """The same samples as JPEG 2000 instead, for photos, where that is smaller."""
    picture = samples.picture
    least = found.bytes if found else _stored_bytes(image)
    plain = picture.width * picture.height * len(picture.getbands())
    if plain > _WAVELETS_MAX or least < _PHOTO_SHARE * plain:
        return found
    if picture.mode not in {"L", "RGB"} or Name.Decode in image:
        return found
    photo = wavelets(picture)
    return Recoded(photo, picture.size, space=samples.space) if len(photo.data) < least else found


def _exactly(
    image: Stream,
    picture: Image.Image,
    space: Object,
    *,
    soft_mask: bool,
    most: float = math.inf,
) -> Recoded | None:
    """These samples, exactly; None where that is likely to take more than `most` bytes."""
    few = (
        None
        if Name.Decode in image
        else reduced(picture, space, soft_mask=soft_mask, masked=Name.SMask in image)
    )
    if few is None:
        encoded = flate(picture, most)
        return Recoded(encoded, picture.size, space=space) if encoded else None
    ways = [flate_rows(few.rows, 1, few.bits, picture.width, most)]
    if few.bits == 1:
        ways.append(bilevel(few.rows.tobytes(), picture.size))
    packed = min((way for way in ways if way), key=lambda way: len(way.data), default=None)
    if packed is None:
        return None
    return Recoded(packed, picture.size, few.space, few.bits, palette_bytes=few.palette_bytes)


def _lossy(
    image: Stream, aim: Aim, placement: Placement | None, *, soft_mask: bool, archived: bool
) -> Recoded | None:
    if _has_matte(image):
        return _exact(image, soft_mask=soft_mask, archived=archived)
    size = size_of(image)
    wanted, largest = (fitted(size, placement, each.dpi) for each in (aim, aim.gentlest))
    # What was brought down before must not lose a little more each time.
    if largest == size and _is_coarse_jpeg(image, aim.gentlest):
        return _exact(image, soft_mask=soft_mask, archived=archived)
    samples = read_samples(image, largest)
    if samples is None:
        return _exact(image, soft_mask=soft_mask, archived=archived)
    if soft_mask and samples.lossless:
        return _soft_mask(image, samples, wanted)
    lossy = _seen_alike(samples, size, placement, aim)
    if samples.lossless:
        most = lossy.bytes * _EXACT_COST_MAX
        exact = _exactly(image, samples.picture, samples.space, soft_mask=False, most=most)
        if exact is not None and exact.bytes <= most:
            if not archived:
                exact = _or_wavelets(image, samples, exact) or exact
            return _if_smaller(image, exact)
    worth_it = _if_smaller(image, lossy, _LOSSY_GAIN)
    if worth_it is not None and filters_of(image) != ("/DCTDecode",):
        return worth_it
    exact = _exact(image, soft_mask=soft_mask, archived=archived)
    if worth_it is None or (exact and exact.bytes <= lossy.bytes):
        return exact
    return worth_it


def _seen_alike(samples: Samples, size: Size, placement: Placement | None, aim: Aim) -> Recoded:
    """The samples as a JPEG by the first of some aims with which they look alike, or the last.

    Alike is judged as the page is by who looks at it: in shades of gray, at so many pixels as the
    image is placed on, of `_VIEW_DPI` to an inch.
    """
    view = fitted(size, placement, _VIEW_DPI)
    before = _shades(samples.picture, view)
    while True:
        wanted = fitted(size, placement, aim.dpi)
        encoded = jpeg(_resized(samples.picture, wanted), aim)
        if aim.gentler is None:
            break
        with open_jpeg(encoded.data) as written:
            if similarity(before, _shades(written, view)) >= aim.floor:
                break
        aim = aim.gentler
    return Recoded(encoded, wanted, space=samples.space)


def _shades(picture: Image.Image, view: Size) -> Pixels:
    gray = picture.convert("L")
    if gray.size != view:
        gray = gray.resize(view, Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(gray)


def _soft_mask(image: Stream, samples: Samples, wanted: Size) -> Recoded | None:
    """A mask, exactly, at its own size or at the wanted one."""
    picture, space = samples.picture, samples.space
    found = [_exactly(image, picture, space, soft_mask=True)]
    if picture.size != wanted:
        found.append(_exactly(image, _resized(picture, wanted), space, soft_mask=True))
    best = min((each for each in found if each), key=lambda each: each.bytes)
    return _if_smaller(image, best)


def _if_smaller(image: Stream, recoded: Recoded, gain: float = 1.0) -> Recoded | None:
    return recoded if recoded.bytes < _stored_bytes(image) * gain else None


def _resized(picture: Image.Image, wanted: Size) -> Image.Image:
    if picture.size == wanted:
        return picture
    return picture.resize(wanted, Image.Resampling.LANCZOS, reducing_gap=3.0)


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
