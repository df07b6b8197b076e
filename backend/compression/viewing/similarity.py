"""How alike two pictures are to the eye."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 8  # pixels
# Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE
# Transactions on Image Processing 13 (2004), equation 13, for values from 0 to 255.
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

Pixels = NDArray[np.uint8]


def similarity(before: Pixels, after: Pixels) -> float:
    """The mean structural similarity of two gray pictures of one size, in blocks of 8 by 8."""
    a, b = (_blocks(each) for each in (before, after))
    count = len(a)
    changed = (a != b).any(1)
    a, b = (each[changed].astype(np.float32) for each in (a, b))
    size = BLOCK * BLOCK
    mean_a, mean_b = a.sum(1) / size, b.sum(1) / size
    square_a, square_b = (np.einsum("ij,ij->i", each, each) / size for each in (a, b))
    product = np.einsum("ij,ij->i", a, b) / size
    spread = square_a - mean_a**2 + square_b - mean_b**2
    common = product - mean_a * mean_b
    alike = (2 * mean_a * mean_b + _C1) * (2 * common + _C2)
    alike /= (mean_a**2 + mean_b**2 + _C1) * (spread + _C2)
    return float(alike.sum() + count - len(a)) / count


def _blocks(picture: Pixels) -> Pixels:
    height, width = picture.shape
    down, across = -height % BLOCK, -width % BLOCK
    whole = np.pad(picture, ((0, down), (0, across)), mode="edge")
    rows = whole.reshape(whole.shape[0] // BLOCK, BLOCK, -1, BLOCK)
    return rows.swapaxes(1, 2).reshape(-1, BLOCK * BLOCK)
