"""Faxes of each kind are read as they were written."""

import io
import random

import numpy as np
import pytest
from numpy.typing import NDArray
from pikepdf import Dictionary
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from backend.compression.engine import ccitt, encoders

SIZE = (333, 90)


def a_picture() -> Image.Image:
    dice = random.Random(3)  # noqa: S311 - no secret
    picture = Image.new("1", SIZE, 1)
    for _ in range(150):
        x, y = dice.randrange(SIZE[0]), dice.randrange(SIZE[1])
        picture.paste(0, (x, y, x + dice.randrange(20), y + dice.randrange(6)))
    return picture


def pixels(rows: bytes) -> NDArray[np.bool_]:
    """The pixels of packed rows, without what fills the rows up."""
    return np.array(Image.frombytes("1", SIZE, rows))


def faxed(compression: str) -> bytes:
    """A fax of the picture as libtiff writes it, white by the codes for black."""
    file = io.BytesIO()
    a_picture().save(file, "TIFF", compression=compression, strip_size=2**31 - 1)
    tiff = file.getvalue()
    with TiffImageFile(io.BytesIO(tiff)) as written:
        (start,), (size,) = written.tag_v2[273], written.tag_v2[279]
    return tiff[start : start + size]


@pytest.mark.parametrize("black_is_1", [False, True])
def test_group_4(black_is_1: bool) -> None:
    stored = encoders.fax(a_picture().tobytes(), SIZE)
    assert stored is not None
    told = Dictionary(K=-1, Columns=SIZE[0], Rows=SIZE[1], BlackIs1=black_is_1)
    rows = ccitt.rows_of(stored.data, told, *SIZE)
    assert rows is not None
    assert np.array_equal(pixels(rows), pixels(a_picture().tobytes()) == black_is_1)


def test_group_3() -> None:
    told = Dictionary(K=0, Columns=SIZE[0], Rows=SIZE[1])
    rows = ccitt.rows_of(faxed("group3"), told, *SIZE)
    assert rows is not None
    assert np.array_equal(pixels(rows), ~pixels(a_picture().tobytes()))


@pytest.mark.parametrize(
    "told",
    [
        {"K": -1, "Columns": SIZE[0], "EncodedByteAlign": True},
        {"K": -1, "Columns": SIZE[0] + 1},
        {"K": -1},
        {"K": -1, "Columns": SIZE[0], "Rows": SIZE[1] + 1},
    ],
)
def test_what_libtiff_would_read_otherwise_is_left(told: dict[str, object]) -> None:
    assert ccitt.rows_of(b"\0" * 100, Dictionary(**told), *SIZE) is None
