"""One image at a time: what becomes of it, and that it still looks the same."""

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, Pdf, Stream
from PIL import Image

from backend.compression.engine import Level, compress, document
from backend.compression.engine.images import fitted
from backend.compression.engine.survey import Placement

Drawn = Callable[..., Path]
Seen = Callable[..., list[Image.Image]]
Apart = Callable[[Image.Image, Image.Image], float]
ImageOf = Callable[[Pdf], Stream]


def plain(picture: Image.Image, space: Any, **entries: Any) -> dict[str, Any]:
    """The arguments of `drawn` for a picture whose bytes are Flate-packed samples."""
    return {
        "data": zlib.compress(picture.tobytes(), 1),
        "Filter": Name.FlateDecode,
        "Width": picture.width,
        "Height": picture.height,
        "ColorSpace": space,
        "BitsPerComponent": 8,
        **entries,
    }


def as_jpeg(picture: Image.Image, space: Any, **entries: Any) -> dict[str, Any]:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    return {
        **plain(picture, space, **entries),
        "data": file.getvalue(),
        "Filter": Name.DCTDecode,
    }


@pytest.fixture
def indexed(photo: Image.Image) -> dict[str, Any]:
    few = photo.quantize(64)
    palette = bytes(few.getpalette() or b"")[: 64 * 3]
    return plain(few, Array([Name.Indexed, Name.DeviceRGB, 63, pikepdf.String(palette)]))


# Resolution


@pytest.mark.parametrize(
    ("size", "placement", "dpi", "result"),
    [
        ((800, 400), Placement(288, 144), 150, (600, 300)),  # 200 dpi
        ((640, 640), Placement(288, 288), 150, (640, 640)),  # 160 dpi: not worth the blur
        ((100, 100), Placement(288, 288), 150, (100, 100)),  # never up
        ((1200, 300), Placement(288, 288), 150, (600, 300)),  # uneven
        ((5000, 5000), None, 150, (5000, 5000)),  # unknown
        ((5000, 5000), Placement(0, 0), 150, (1, 1)),  # invisible
    ],
)
def test_resolution_is_brought_down_as_placed(
    size: tuple[int, int],
    placement: Placement | None,
    dpi: int,
    result: tuple[int, int],
) -> None:
    assert fitted(size, placement, dpi) == result


@pytest.mark.parametrize(("level", "side"), [("low", 1200), ("medium", 576), ("high", 432)])
def test_each_level_has_its_resolution(
    level: str,
    side: int,
    photo: Image.Image,
    drawn: Drawn,
    image_of: ImageOf,
    tmp_path: Path,
) -> None:
    source = drawn(**as_jpeg(photo.resize((1600, 1600)), Name.DeviceRGB))
    compress(source, tmp_path / "small.pdf", level=Level(level))
    with pikepdf.open(tmp_path / "small.pdf") as pdf:
        assert (image_of(pdf).Width, image_of(pdf).Height) == (side, side)


def test_an_image_that_is_drawn_large_elsewhere_keeps_its_resolution(
    photo: Image.Image, drawn: Drawn, image_of: ImageOf, tmp_path: Path
) -> None:
    twice = b"q 20 0 0 20 0 0 cm /Im Do Q q 900 0 0 600 0 0 cm /Im Do Q"
    source = drawn(**plain(photo, Name.DeviceRGB), content=twice)
    compress(source, tmp_path / "small.pdf", level=Level.HIGH)
    with pikepdf.open(tmp_path / "small.pdf") as pdf:
        assert image_of(pdf).Width == photo.width


# Colour


@pytest.mark.parametrize("make", [plain, as_jpeg])
@pytest.mark.parametrize(
    ("mode", "space", "decode"),
    [
        ("L", Name.DeviceGray, None),
        ("L", Name.DeviceGray, [1, 0]),
        ("RGB", Name.DeviceRGB, None),
        ("RGB", Name.DeviceRGB, [1, 0, 0, 1, 0.2, 0.8]),
        ("CMYK", Name.DeviceCMYK, None),
        ("CMYK", Name.DeviceCMYK, [1, 0, 1, 0, 1, 0, 1, 0]),
        ("RGB", Array([Name.CalRGB, Dictionary(WhitePoint=[0.95, 1, 1.09])]), None),
    ],
)
def test_colours_stay_whatever_their_space(
    make: Callable[..., dict[str, Any]],
    mode: str,
    space: Any,
    decode: list[float] | None,
    photo: Image.Image,
    drawn: Drawn,
    seen: Seen,
    apart: Apart,
    image_of: ImageOf,
    tmp_path: Path,
) -> None:
    entries = {} if decode is None else {"Decode": Array(decode)}
    source, target = drawn(**make(photo.convert(mode), space, **entries)), tmp_path / "small.pdf"
    assert compress(source, target, level=Level.HIGH).images_recoded == 1
    assert apart(seen(source)[0], seen(target)[0]) < 5
    with pikepdf.open(target) as pdf:
        assert image_of(pdf).Filter == Name.DCTDecode
        assert image_of(pdf).Width < photo.width


def test_a_palette_is_unfolded(
    indexed: dict[str, Any],
    drawn: Drawn,
    seen: Seen,
    apart: Apart,
    image_of: ImageOf,
    tmp_path: Path,
) -> None:
    source, target = drawn(**indexed), tmp_path / "small.pdf"
    assert compress(source, target, level=Level.HIGH).images_recoded == 1
    assert apart(seen(source)[0], seen(target)[0]) < 5
    with pikepdf.open(target) as pdf:
        assert image_of(pdf).ColorSpace == Name.DeviceRGB


def test_an_icc_profile_stays(
    photo: Image.Image, drawn: Drawn, image_of: ImageOf, tmp_path: Path
) -> None:
    source, marked = drawn(**plain(photo, Name.DeviceRGB)), tmp_path / "marked.pdf"
    with pikepdf.open(source) as pdf:
        profile = pdf.make_stream(b"a profile " * 300, N=3, Alternate=Name.DeviceRGB)
        image_of(pdf).ColorSpace = Array([Name.ICCBased, profile])
        pdf.save(marked)
    compress(marked, tmp_path / "small.pdf", level=Level.MEDIUM)
    with pikepdf.open(tmp_path / "small.pdf") as pdf:
        assert image_of(pdf).Filter == Name.DCTDecode
        assert image_of(pdf).ColorSpace[1].read_bytes() == b"a profile " * 300


def test_flat_colours_stay_exact(
    drawn: Drawn, seen: Seen, image_of: ImageOf, tmp_path: Path
) -> None:
    chart = Image.new("RGB", (400, 400), "white")
    for step in range(0, 400, 40):
        chart.paste((step // 2, 255 - step // 2, 80), (step, 400 - step, step + 30, 400))
    source, target = drawn(**plain(chart, Name.DeviceRGB)), tmp_path / "small.pdf"
    compress(source, target, level=Level.MEDIUM)
    assert seen(source)[0].tobytes() == seen(target)[0].tobytes()


# Masks


def with_soft_mask(source: Path, target: Path, mask: Image.Image, **entries: Any) -> None:
    with pikepdf.open(source) as pdf:
        stream = Stream(
            pdf,
            zlib.compress(mask.tobytes()),
            **entries,
        )
        for key, value in plain(mask, Name.DeviceGray).items():
            if key != "data":
                stream[f"/{key}"] = value
        stream.Type, stream.Subtype = Name.XObject, Name.Image
        pdf.pages[0].Resources.XObject.Im.SMask = pdf.make_indirect(stream)
        pdf.save(target)


def test_a_soft_mask_is_kept_and_stays_exact(
    photo: Image.Image, drawn: Drawn, seen: Seen, apart: Apart, image_of: ImageOf, tmp_path: Path
) -> None:
    source, target = tmp_path / "masked.pdf", tmp_path / "small.pdf"
    with_soft_mask(drawn(**plain(photo, Name.DeviceRGB)), source, photo.convert("L"))
    compress(source, target, level=Level.HIGH)
    assert apart(seen(source)[0], seen(target)[0]) < 5
    with pikepdf.open(target) as pdf:
        assert image_of(pdf).Filter == Name.DCTDecode
        assert image_of(pdf).SMask.Filter == Name.FlateDecode
        assert image_of(pdf).SMask.Width < photo.width


def test_an_image_blended_with_its_mask_is_not_resized(
    photo: Image.Image, drawn: Drawn, seen: Seen, image_of: ImageOf, tmp_path: Path
) -> None:
    source, target = tmp_path / "masked.pdf", tmp_path / "small.pdf"
    blended = {"Matte": Array([0, 0, 0])}
    with_soft_mask(drawn(**plain(photo, Name.DeviceRGB)), source, photo.convert("L"), **blended)
    compress(source, target, level=Level.HIGH)
    with pikepdf.open(target) as pdf:
        assert image_of(pdf).Width == image_of(pdf).SMask.Width == photo.width
    assert seen(source)[0].tobytes() == seen(target)[0].tobytes()


def test_a_colour_key_is_left_alone(
    photo: Image.Image, drawn: Drawn, seen: Seen, image_of: ImageOf, tmp_path: Path
) -> None:
    keyed = plain(photo, Name.DeviceRGB, Mask=Array([0, 90, 0, 90, 0, 90]))
    source, target = drawn(**keyed), tmp_path / "small.pdf"
    compress(source, target, level=Level.HIGH)
    with pikepdf.open(target) as pdf:
        assert image_of(pdf).Filter == Name.FlateDecode
    assert seen(source)[0].tobytes() == seen(target)[0].tobytes()


@pytest.mark.parametrize("decode", [[0, 1], [1, 0]])
@pytest.mark.parametrize("stencil", [False, True])
def test_black_and_white_stays_exact(
    stencil: bool,
    decode: list[int],
    photo: Image.Image,
    drawn: Drawn,
    seen: Seen,
    image_of: ImageOf,
    tmp_path: Path,
) -> None:
    page = photo.convert("L").point(lambda value: 255 if value > 120 else 0).convert("1")
    entries = plain(page, Name.DeviceGray, BitsPerComponent=1, Decode=Array(decode))
    if stencil:
        entries["ImageMask"] = True
        del entries["ColorSpace"]
    source, target = drawn(**entries), tmp_path / "small.pdf"
    compress(source, target, level=Level.HIGH)
    with pikepdf.open(target) as pdf:
        assert image_of(pdf).Filter == Name.JBIG2Decode
    assert seen(source)[0].tobytes() == seen(target)[0].tobytes()


# Left alone


@pytest.mark.parametrize(
    "spoil",
    [
        {"Width": 100_000, "Height": 100_000},
        {"Width": 0},
        {"Width": Name.Wide},
        {"Height": 700},
        {"BitsPerComponent": 3},
        {"BitsPerComponent": 16},
        {"ColorSpace": Name.DeviceCMYK},
        {"ColorSpace": Name.Pattern},
        {"ColorSpace": Array([Name.Indexed, Name.DeviceRGB, 255, 7])},
        {"ColorSpace": Array([Name.ICCBased, Dictionary()])},
        {"ColorSpace": Array([])},
        {"Filter": Name.DCTDecode},
        {"Filter": Name.JPXDecode},
        {"Filter": Name.NoSuchDecode},
        {"Filter": Array([Name.FlateDecode, Name.DCTDecode])},
        {"DecodeParms": Dictionary(Predictor=15, Columns=-4)},
    ],
)
@pytest.mark.parametrize("level", [Level.LOSSLESS, Level.HIGH])
def test_a_broken_image_is_left_as_it_is(
    level: Level,
    spoil: dict[str, Any],
    photo: Image.Image,
    drawn: Drawn,
    tmp_path: Path,
) -> None:
    source = drawn(**{**plain(photo, Name.DeviceRGB), **spoil})
    done = compress(source, tmp_path / "small.pdf", level=level)
    assert done.images == 1
    assert done.images_recoded == 0


def test_a_truncated_jpeg_is_left_as_it_is(
    photo: Image.Image, drawn: Drawn, tmp_path: Path
) -> None:
    entries = as_jpeg(photo, Name.DeviceRGB)
    source = drawn(**{**entries, "data": entries["data"][:20_000]})
    assert compress(source, tmp_path / "small.pdf", level=Level.HIGH).images_recoded == 0


def test_a_jpeg_that_is_coarse_already_keeps_its_pixels(
    photo: Image.Image, drawn: Drawn, seen: Seen, tmp_path: Path
) -> None:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=60)
    entries = {**as_jpeg(photo, Name.DeviceRGB), "data": file.getvalue()}
    source = drawn(**entries, content=b"600 0 0 400 0 0 cm /Im Do")
    target = tmp_path / "small.pdf"
    assert compress(source, target, level=Level.MEDIUM).changed
    assert seen(target)[0].tobytes() == seen(source)[0].tobytes()


def test_a_little_stream_that_unpacks_to_too_much_is_left_as_it_is(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = zlib.compress(bytes(2**22), 1)
    source = drawn(
        bomb,
        Filter=Name.FlateDecode,
        Width=1000,
        Height=1000,
        ColorSpace=Name.DeviceRGB,
        BitsPerComponent=8,
    )
    with monkeypatch.context() as limited:
        limited.setattr(document, "UNPACKED_BYTES_MAX", 2**20)
        done = compress(source, tmp_path / "small.pdf", level=Level.HIGH)
    document.limit_memory()  # for qpdf holds what was set last, for the whole process
    assert done.images_recoded == 0


def test_a_scan_of_600_dots_per_inch_has_300_at_the_highest_level_alone(
    drawn: Drawn, seen: Seen, apart: Apart, image_of: ImageOf, tmp_path: Path, photo: Image.Image
) -> None:
    scan = photo.convert("L").resize((2400, 2400)).point([0] * 128 + [255] * 128).convert("1")
    source = drawn(
        scan.tobytes(), Width=2400, Height=2400, ColorSpace=Name.DeviceGray, BitsPerComponent=1
    )
    target = tmp_path / "small.pdf"
    for level, width in ((Level.MEDIUM, 2400), (Level.HIGH, 1200)):
        assert compress(source, target, level=level).changed
        with pikepdf.open(target) as pdf:
            assert (image_of(pdf).Width, image_of(pdf).BitsPerComponent) == (width, 1)
        assert apart(seen(source)[0], seen(target)[0]) < 12


@pytest.mark.parametrize("in_array", [False, True])
@pytest.mark.parametrize("level", [Level.LOSSLESS, Level.MEDIUM])
def test_a_jpeg_whose_colours_a_parameter_tells_keeps_them(
    in_array: bool,
    level: Level,
    drawn: Drawn,
    image_of: ImageOf,
    tmp_path: Path,
    photo: Image.Image,
) -> None:
    told = Dictionary(ColorTransform=0)
    entries = as_jpeg(photo, Name.DeviceRGB)
    source = drawn(**entries, DecodeParms=Array([told]) if in_array else told)
    with pikepdf.open(source) as pdf:
        before = image_of(pdf).read_raw_bytes()
    target = tmp_path / "small.pdf"
    compress(source, target, level=level)
    with pikepdf.open(target) as pdf:
        assert image_of(pdf).read_raw_bytes() == before
        assert Name.DecodeParms in image_of(pdf)
