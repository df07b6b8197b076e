"""Finding that an image has few colours, and storing it with as few bits a sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pikepdf import Array, Name, Object, String
from PIL import Image

COLOURS_MAX = 256
_WORTH_IT_OF_GRAY = 16  # with more, a sample needs its 8 bits

Samples = NDArray[np.uint8]
Keys = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Reduced:
    """Samples of `bits` bits, one component each, in packed rows; `space` is what they are in.

    `palette_bytes` are those of its palette.
    """

    rows: Samples
    bits: int
    space: Object
    palette_bytes: int = 0


def reduced(
    picture: Image.Image, space: Object, *, soft_mask: bool, masked: bool = False
) -> Reduced | None:
    """The same picture with fewer bits, or None when it has too many colours.

    A soft mask can only be gray (ISO 32000-2, 11.6.5.2), so it is stored with 1 bit or as it is.
    What is `masked` by one gets no palette but of one colour: PDFium scales the two another way
    then, and what is half transparent changes its colour.
    """
    colours = picture.getcolors(COLOURS_MAX) if picture.mode in {"L", "RGB"} else None
    if colours is None or (masked and len(colours) > 1):
        return None
    samples: Samples = np.asarray(picture)
    values = np.array(sorted(value for _, value in colours), np.uint8).reshape(len(colours), -1)
    if picture.mode == "RGB":
        keys, known = _told_apart(samples, values)
    elif space == Name.DeviceGray and not {value for _, value in colours} - {0, 255}:
        return Reduced(_packed(samples >> np.uint8(7), 1), 1, space)
    elif soft_mask or len(colours) > _WORTH_IT_OF_GRAY:
        return None
    else:
        keys, known = samples.astype(np.uint16), values[:, 0].astype(np.uint16)
    index_of = np.zeros(1 << 16, np.uint8)
    index_of[known] = np.arange(len(known))
    # PDFium enlarges pictures of two colours in another way when they have one bit.
    depths = (2, 4, 8) if len(known) > 1 else (1,)
    bits = next(each for each in depths if len(known) <= 1 << each)
    indexed = Array([Name.Indexed, space, len(known) - 1, String(values.tobytes())])
    return Reduced(_packed(index_of[keys], bits), bits, indexed, len(values.tobytes()))


def _told_apart(samples: Samples, values: Samples) -> tuple[Keys, Keys]:
    """A number of 16 bits for each pixel and for each colour, another for every colour."""
    dice = np.random.default_rng(0)
    while True:
        factors = dice.integers(1, 1 << 16, 3, np.uint16)
        known = (values * factors).sum(1, dtype=np.uint16)
        if len(np.unique(known)) == len(known):
            red, green, blue = (samples[:, :, each] * factors[each] for each in range(3))
            return red + green + blue, known


def _packed(samples: Samples, bits: int) -> Samples:
    """Rows of so many bits a sample, each row filled up to whole bytes."""
    if bits == 8:
        return samples
    if bits == 1:
        return np.packbits(samples, axis=1)
    each = 8 // bits
    height, width = samples.shape
    filled = np.zeros((height, -(-width // each) * each), np.uint8)
    filled[:, :width] = samples
    parts = filled.reshape(height, -1, each)
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    packed: Samples = np.bitwise_or.reduce(parts << shifts, axis=2)
    return packed
