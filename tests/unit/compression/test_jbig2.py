"""Bitmaps come back from JBIG2 as they were, in the eyes of another decoder."""

import random
from pathlib import Path

import pikepdf
import pypdfium2
import pytest
from pikepdf import Dictionary, Name, Stream
from PIL import Image, ImageDraw

from backend.compression.engine import encoders, jbig2


def decoded(data: bytes, size: tuple[int, int], path: Path) -> Image.Image:
    """The image that PDFium reads."""
    width, height = size
    pdf = pikepdf.new()
    page = pdf.add_blank_page(page_size=(100, 100)).obj
    image = Stream(pdf, data, Subtype=Name.Image, Width=width, Height=height)
    image.ColorSpace, image.BitsPerComponent = Name.DeviceGray, 1
    image.Filter = Name.JBIG2Decode
    page.Resources = Dictionary(XObject=Dictionary(Im=image))
    page.Contents = pdf.make_stream(b"100 0 0 100 0 0 cm /Im Do")
    pdf.save(path)
    with pypdfium2.PdfDocument(path) as document:
        (drawn,) = document[0].get_objects()
        return drawn.get_bitmap().to_pil().convert("1", dither=Image.Dither.NONE)


def a_page(size: tuple[int, int], seed: int) -> Image.Image:
    """White, with black marks and some dirt."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    picture = Image.new("1", size, 1)
    pen = ImageDraw.Draw(picture)
    for _ in range(size[0] * size[1] // 600 + 2):
        x, y = dice.randrange(size[0]), dice.randrange(size[1])
        pen.rectangle((x, y, x + dice.randrange(9), y + dice.randrange(9)), fill=0)
        pen.point((dice.randrange(size[0]), dice.randrange(size[1])), fill=0)
    return picture


@pytest.mark.parametrize("size", [(8, 40), (9, 70), (63, 64), (64, 31), (65, 200), (700, 900)])
def test_every_pixel_comes_back(size: tuple[int, int], tmp_path: Path) -> None:
    picture = a_page(size, seed=size[0])
    data = jbig2.encode(picture.tobytes(), *size)
    assert data is not None, "scripts/build has compiled nothing"
    assert decoded(data, size, tmp_path / "one.pdf").tobytes() == picture.tobytes()


@pytest.mark.parametrize("shade", [0, 1])
def test_an_empty_page_takes_next_to_nothing(shade: int, tmp_path: Path) -> None:
    picture = Image.new("1", (2000, 3000), shade)
    data = jbig2.encode(picture.tobytes(), *picture.size)
    assert data is not None
    assert len(data) < 200
    assert decoded(data, picture.size, tmp_path / "one.pdf").tobytes() == picture.tobytes()


def test_noise_is_left_to_others(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(100 * 800)  # noqa: S311 - no secret
    assert jbig2.encode(noise, 800, 800) is None


def test_it_takes_three_quarters_of_what_fax_takes_at_most(tmp_path: Path) -> None:
    picture = a_page((1700, 2200), seed=5)
    data = jbig2.encode(picture.tobytes(), *picture.size)
    stored = encoders.fax(picture.tobytes(), picture.size)
    assert data is not None
    assert stored is not None
    assert len(data) < len(stored.data) * 0.75


def test_without_the_compiled_coder_it_is_fax(monkeypatch: pytest.MonkeyPatch) -> None:
    jbig2._library.cache_clear()
    monkeypatch.setattr(jbig2, "LIBRARY", Path("/nowhere/jbig2.so"))
    try:
        stored = encoders.bilevel(a_page((100, 100), 1).tobytes(), (100, 100))
    finally:
        jbig2._library.cache_clear()
    assert stored is not None
    assert stored.filter == Name.CCITTFaxDecode
