"""Images of few colours are stored with few bits, and look the same."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from pikepdf import Name
from PIL import Image

from backend.compression.engine import Level, compress

Drawn = Callable[..., Path]
Seen = Callable[..., list[Image.Image]]
Apart = Callable[[Image.Image, Image.Image], float]
ImageOf = Callable[..., pikepdf.Stream]


def colours(count: int, mode: str) -> Image.Image:
    """Noise of so many colours, in squares."""
    dice = random.Random(count)  # noqa: S311 - no secret
    shades: list[Any] = [number * 97 % 251 for number in range(count)]
    if mode == "RGB":
        shades = [(shade, 255 - shade, shade * 7 % 256) for shade in shades]
    picture = Image.new(mode, (40, 40))
    picture.putdata(dice.choices(shades, k=40 * 40))
    return picture.resize((160, 160), Image.Resampling.NEAREST)


@pytest.mark.parametrize(
    ("mode", "count", "bits"),
    [("RGB", 2, 2), ("RGB", 3, 2), ("RGB", 14, 4), ("RGB", 90, 8), ("L", 2, 2), ("L", 9, 4)],
)
def test_few_colours_take_few_bits(
    mode: str,
    count: int,
    bits: int,
    drawn: Drawn,
    seen: Seen,
    apart: Apart,
    image_of: ImageOf,
    tmp_path: Path,
) -> None:
    picture = colours(count, mode)
    space = Name.DeviceRGB if mode == "RGB" else Name.DeviceGray
    source = drawn(picture.tobytes(), Width=160, Height=160, ColorSpace=space, BitsPerComponent=8)
    target = tmp_path / "small.pdf"
    assert compress(source, target, level=Level.LOSSLESS).changed
    with pikepdf.open(target) as pdf:
        image = image_of(pdf)
        assert image.BitsPerComponent == bits
        assert image.ColorSpace[0] == Name.Indexed
    assert apart(seen(target)[0], seen(source)[0]) < 0.5  # readers blend bits a little otherwise


def test_black_and_white_in_gray_is_a_bitmap(
    drawn: Drawn, seen: Seen, apart: Apart, image_of: ImageOf, tmp_path: Path
) -> None:
    picture = colours(9, "L").point(lambda value: 255 if value > 90 else 0)
    source = drawn(
        picture.tobytes(),
        Width=160,
        Height=160,
        ColorSpace=Name.DeviceGray,
        BitsPerComponent=8,
    )
    target = tmp_path / "small.pdf"
    compress(source, target, level=Level.LOSSLESS)
    with pikepdf.open(target) as pdf:
        image = image_of(pdf)
        assert (image.BitsPerComponent, image.ColorSpace) == (1, Name.DeviceGray)
    assert apart(seen(target)[0], seen(source)[0]) < 0.5  # readers blend bits a little otherwise
