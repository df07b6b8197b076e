"""Glyphs that are not shown are taken out of fonts, and a reader sees no difference."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont, newTable
from fontTools.ttLib.tables.ttProgram import Program
from pikepdf import Array, Dictionary, Name, Pdf, Stream
from PIL import Image

from backend.compression.engine import Level, cff, compress
from backend.compression.engine.fonts import empty_unused
from backend.compression.engine.survey import survey

Seen = Callable[..., list[Image.Image]]
LETTERS = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
NAMES = [".notdef", *LETTERS, "Aacute"]


def drawn(pen: TTGlyphPen | T2CharStringPen, number: int) -> None:
    """A figure of many corners, another for each number."""
    dice = random.Random(number)  # noqa: S311 - no secret
    corners = [(dice.randrange(650), dice.randrange(700)) for _ in range(100)]
    pen.moveTo(corners[0])
    for corner in corners[1:]:
        pen.lineTo(corner)
    pen.closePath()


def a_truetype() -> bytes:
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(NAMES)
    builder.setupCharacterMap({ord(letter): letter for letter in LETTERS} | {0xC1: "Aacute"})
    glyphs = {}
    for number, name in enumerate(NAMES[:-1]):
        pen = TTGlyphPen(None)
        drawn(pen, number)
        glyphs[name] = pen.glyph()
    pen = TTGlyphPen(dict.fromkeys(NAMES))
    pen.addComponent("A", (1, 0, 0, 1, 0, 0))
    pen.addComponent("Z", (0.5, 0, 0, 0.5, 100, 600))
    glyphs["Aacute"] = pen.glyph()
    builder.setupGlyf(glyphs)
    return finished(builder)


def a_cff() -> bytes:
    """A bare CFF program, as a PDF embeds it, with glyphs that are no CIDs."""
    builder = FontBuilder(1000, isTTF=False)
    builder.setupGlyphOrder(NAMES)
    builder.setupCharacterMap({ord(letter): letter for letter in LETTERS})
    glyphs = {}
    for number, name in enumerate(NAMES):
        pen = T2CharStringPen(700, None)
        drawn(pen, number)
        glyphs[name] = pen.getCharString()
    builder.setupCFF("Test", {}, glyphs, {})
    font = TTFont(io.BytesIO(finished(builder)))
    return bytes(font.reader["CFF "])


def finished(builder: FontBuilder) -> bytes:
    builder.setupHorizontalMetrics(dict.fromkeys(NAMES, (700, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupOS2()
    builder.setupPost()
    file = io.BytesIO()
    builder.save(file)
    return file.getvalue()


def embedded(pdf: Pdf, program: bytes, key: str, **entries: object) -> Dictionary:
    stream = Stream(pdf, program, Length1=len(program))
    if key == "FontFile3":
        stream.Subtype = Name.CIDFontType0C
    descriptor = Dictionary(
        Type=Name.FontDescriptor,
        FontName=Name.Test,
        Flags=4,
        FontBBox=[0, 0, 1000, 1000],
        ItalicAngle=0,
        Ascent=800,
        Descent=-200,
        CapHeight=700,
        StemV=80,
        **{key: pdf.make_indirect(stream)},
    )
    return Dictionary(
        Type=Name.Font,
        BaseFont=Name.Test,
        FontDescriptor=pdf.make_indirect(descriptor),
        **entries,
    )


def composite(pdf: Pdf, program: bytes, key: str, subtype: Name, encoding: Name) -> Dictionary:
    about = Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0)
    below = embedded(pdf, program, key, Subtype=subtype, CIDSystemInfo=about, DW=700)
    font = Dictionary(
        Type=Name.Font,
        Subtype=Name.Type0,
        BaseFont=Name.Test,
        Encoding=encoding,
        DescendantFonts=Array([pdf.make_indirect(below)]),
    )
    return pdf.make_indirect(font)


IDENTITY = Name("/Identity-H")


def by_glyphs(pdf: Pdf) -> Dictionary:
    return composite(pdf, a_truetype(), "FontFile2", Name.CIDFontType2, IDENTITY)


def by_cff(pdf: Pdf) -> Dictionary:
    return composite(pdf, a_cff(), "FontFile3", Name.CIDFontType0, IDENTITY)


def by_codes(pdf: Pdf) -> Dictionary:
    widths = Array([700] * 256)
    more = {"Subtype": Name.TrueType, "FirstChar": 0, "LastChar": 255, "Widths": widths}
    font = embedded(pdf, a_truetype(), "FontFile2", **more)
    font.Encoding = Name.WinAnsiEncoding
    return pdf.make_indirect(font)


SHOWN = {by_glyphs: b"<000100020003>", by_cff: b"<000100020003>", by_codes: b"(ABC)"}


def a_document(font_of: Callable[[Pdf], Dictionary], shown: bytes) -> Pdf:
    pdf = pikepdf.new()
    page = pdf.add_blank_page(page_size=(300, 100)).obj
    page.Resources = Dictionary(Font=Dictionary(F1=font_of(pdf)))
    page.Contents = pdf.make_stream(b"BT /F1 60 Tf 10 20 Td " + shown + b" Tj ET")
    return pdf


def emptied(pdf: Pdf) -> list[bytes]:
    return [data for _, data in empty_unused(pdf, survey(pdf.pages))]


@pytest.mark.parametrize("font_of", SHOWN, ids=lambda font_of: font_of.__name__)
def test_the_page_looks_the_same_and_the_font_is_a_fraction(
    font_of: Callable[[Pdf], Dictionary], tmp_path: Path, seen: Seen
) -> None:
    pdf = a_document(font_of, SHOWN[font_of])
    source, target = tmp_path / "source.pdf", tmp_path / "target.pdf"
    pdf.save(source)
    done = compress(source, target, level=Level.LOSSLESS)

    (before,), (after,) = seen(source), seen(target)
    assert before.getextrema() != ((255, 255),) * 3, "the page is blank"
    assert after.tobytes() == before.tobytes()
    assert done.compressed_bytes < done.original_bytes * 0.6


def test_a_glyph_keeps_what_it_is_made_of(tmp_path: Path, seen: Seen) -> None:
    made = NAMES.index("Aacute")
    pdf = a_document(by_glyphs, b"<%04x>" % made)
    (program,) = emptied(pdf)
    glyphs = TTFont(io.BytesIO(program))["glyf"]
    order = TTFont(io.BytesIO(program)).getGlyphOrder()
    kept = {index for index, name in enumerate(order) if glyphs[name].numberOfContours != 0}
    assert kept == {0, NAMES.index("A"), NAMES.index("Z"), made}


def test_a_form_shows_in_its_callers_font(tmp_path: Path, seen: Seen) -> None:
    pdf = a_document(by_glyphs, b"<0001>")
    page = pdf.pages[0].obj
    form = Stream(pdf, b"BT 60 20 Td <0005> Tj ET", Subtype=Name.Form, BBox=[0, 0, 300, 100])
    form.Resources = Dictionary(ExtGState=Dictionary())
    page.Resources.XObject = Dictionary(Fm=pdf.make_indirect(form))
    page.Contents = pdf.make_stream(b"BT /F1 60 Tf 10 20 Td <0001> Tj ET /Fm Do")
    source, target = tmp_path / "source.pdf", tmp_path / "target.pdf"
    pdf.save(source)
    assert compress(source, target, level=Level.LOSSLESS).changed
    assert seen(target)[0].tobytes() == seen(source)[0].tobytes()


def filled_in(pdf: Pdf) -> None:
    """Let the fields of a form be filled in with the font of the page."""
    font = pdf.pages[0].obj.Resources.Font.F1
    pdf.Root.AcroForm = Dictionary(Fields=Array([]), DR=Dictionary(Font=Dictionary(F1=font)))


def test_a_font_of_any_characters_that_fields_are_filled_in_with_stays_whole() -> None:
    pdf = a_document(by_glyphs, b"<0001>")
    filled_in(pdf)
    assert emptied(pdf) == []


def test_a_simple_font_that_fields_are_filled_in_with_keeps_all_that_it_encodes() -> None:
    pdf = a_document(by_codes, b"(A)")
    (few,) = emptied(pdf)
    filled_in(pdf)
    for program in emptied(pdf) or [a_truetype()]:
        assert len(program) > len(few)
        glyphs = TTFont(io.BytesIO(program))["glyf"]
        assert all(glyphs[letter].numberOfContours for letter in LETTERS)


def test_instructions_go_only_where_they_may(tmp_path: Path, seen: Seen) -> None:
    font = TTFont(io.BytesIO(a_truetype()))
    for table in ("fpgm", "prep"):
        font[table] = newTable(table)
        font[table].program = Program()
        font[table].program.fromBytecode([0xB0, 0, 0x21] * 400)  # push and pop
    for name in ("A", "Aacute"):
        font["glyf"][name].program = Program()
        font["glyf"][name].program.fromBytecode([0xB0, 0, 0x21] * 400)
    file = io.BytesIO()
    font.save(file)

    def named(name: str) -> Callable[[Pdf], Dictionary]:
        def font_of(pdf: Pdf) -> Dictionary:
            made = composite(pdf, file.getvalue(), "FontFile2", Name.CIDFontType2, IDENTITY)
            made.DescendantFonts[0].BaseFont = Name(name)
            return made

        return font_of

    glyph = b"<%04X%04X>" % (NAMES.index("A"), NAMES.index("Aacute"))
    pdf = a_document(named("/Test"), glyph)
    found = survey(pdf.pages)
    ((_, kept),) = empty_unused(pdf, found)
    ((_, plain),) = empty_unused(pdf, found, hints=False)
    assert len(plain) < len(kept) - 4000
    assert {"fpgm", "prep", "cvt "}.isdisjoint(TTFont(io.BytesIO(plain)).keys())
    old = a_document(named("/ABCDEF+MingLiU"), glyph)
    ((_, drawn),) = empty_unused(old, survey(old.pages), hints=False)
    assert drawn == kept

    source, target = tmp_path / "source.pdf", tmp_path / "target.pdf"
    pdf.save(source)
    assert compress(source, target, level=Level.MEDIUM).changed
    assert seen(target)[0].tobytes() == seen(source)[0].tobytes()


def test_a_program_keeps_what_a_font_shows_that_does_not_say_that_it_is_one() -> None:
    pdf = a_document(by_glyphs, b"<0001>")
    page = pdf.pages[0].obj
    other = Dictionary(dict(page.Resources.Font.F1.items()))
    del other["/Type"]
    page.Resources.Font.F2 = pdf.make_indirect(other)
    page.Contents = pdf.make_stream(b"BT /F1 9 Tf <0001> Tj /F2 9 Tf <0007> Tj ET")
    (program,) = emptied(pdf)
    font = TTFont(io.BytesIO(program))
    kept = {i for i, n in enumerate(font.getGlyphOrder()) if font["glyf"][n].numberOfContours}
    assert kept == {0, 1, 7}


def test_a_font_whose_encoding_is_not_understood_stays_whole() -> None:
    def unknown(pdf: Pdf) -> Dictionary:
        encoding = Name("/UniJIS-UCS2-H")
        return composite(pdf, a_truetype(), "FontFile2", Name.CIDFontType2, encoding)

    assert emptied(a_document(unknown, b"<0001>")) == []


def test_fonts_stay_whole_where_the_content_cannot_be_followed() -> None:
    assert emptied(a_document(by_glyphs, b"(unbalanced <0001>")) == []


@pytest.mark.parametrize("cut", [3, 40, 200, -40])
def test_a_damaged_program_is_left_as_it_is(cut: int) -> None:
    for program, key, subtype in (
        (a_truetype(), "FontFile2", Name.CIDFontType2),
        (a_cff(), "FontFile3", Name.CIDFontType0),
    ):
        damaged = program[:cut] + bytes(50)

        def font_of(pdf: Pdf, damaged=damaged, key=key, subtype=subtype) -> Dictionary:
            return composite(pdf, damaged, key, subtype, IDENTITY)

        for smaller in emptied(a_document(font_of, b"<0001>")):
            assert len(smaller) <= len(damaged) + 100


@pytest.mark.parametrize(
    ("glyph", "composed"),
    [
        (bytes([139, 139, 204, 249 - 0, 100, 14]), True),  # adx ady bchar achar endchar
        (bytes([28, 0, 1, 139, 139, 204, 204, 14]), True),
        (bytes([140, 10]), True),
        (bytes([140, 140, 21, 139, 139, 139, 139, 14]), False),  # it draws something first
        (bytes([14]), False),
    ],
)
def test_glyphs_that_others_are_drawn_in_are_told(glyph: bytes, composed: bool) -> None:
    assert cff._may_be_composed(glyph) is composed
