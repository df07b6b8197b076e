"""Encoders that claim to be exact are."""

import hashlib
import io

import pikepdf
import pytest
from PIL import Image

from backend.compression.engine.encoders import fax, flate, is_coarse, jpeg, wavelets
from backend.compression.engine.levels import Aim
from backend.compression.engine.samples import open_jpeg


def unpacked(data: bytes, parameters: pikepdf.Dictionary | None) -> bytes:
    pdf = pikepdf.new()
    stream = pdf.make_stream(b"")
    stream.write(data, filter=pikepdf.Name.FlateDecode, decode_parms=parameters)
    return stream.read_bytes()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_flate_gives_back_every_sample(mode: str, photo: Image.Image) -> None:
    picture = photo.convert(mode)
    stored = flate(picture)
    assert unpacked(stored.data, stored.parameters) == picture.tobytes()
    assert len(stored.data) < len(picture.tobytes()) * 0.9


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_2000_gives_back_every_sample(mode: str, photo: Image.Image) -> None:
    picture = photo.convert(mode)
    stored = wavelets(picture)
    with Image.open(io.BytesIO(stored.data)) as opened:
        assert opened.format == "JPEG2000"
        assert opened.tobytes() == picture.tobytes()
    assert len(stored.data) < len(flate(picture).data)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 500])
def test_fax_is_one_strip_whatever_the_width(width: int) -> None:
    rows = hashlib.shake_256(b"noise").digest((width + 7) // 8 * 300)
    stored = fax(rows, (width, 300))
    assert stored is not None
    assert stored.parameters is not None
    assert (stored.parameters.Columns, stored.parameters.Rows) == (width, 300)


def test_a_jpeg_is_as_coarse_as_its_own_quality_and_not_as_a_lower_one(
    photo: Image.Image,
) -> None:
    for quality in (20, 50, 75, 90):
        tables = open_jpeg(jpeg(photo, Aim(150, quality, "4:2:0")).data).quantization
        assert is_coarse(tables, quality + 2)
        assert not is_coarse(tables, quality - 2)
    assert not is_coarse({}, 50)
