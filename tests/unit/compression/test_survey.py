"""How large images are drawn, whatever draws them."""

import hashlib
import io

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, Pdf, Stream

from backend.compression.engine import survey as surveying
from backend.compression.engine.levels import Level, steps_from
from backend.compression.engine.progress import Progress
from backend.compression.engine.shrinking import shrink
from backend.compression.engine.survey import Placement, survey


@pytest.fixture
def pdf() -> Pdf:
    pdf = pikepdf.new()
    pdf.add_blank_page(page_size=(600, 800))
    pdf.pages[0].Resources = Dictionary()
    return pdf


def an_image(pdf: Pdf, **entries: object) -> Stream:
    image = Stream(
        pdf,
        b"\0" * 100,
        Type=Name.XObject,
        Subtype=Name.Image,
        Width=10,
        Height=10,
        BitsPerComponent=8,
        ColorSpace=Name.DeviceGray,
        **entries,
    )
    return pdf.make_indirect(image)


def a_form(pdf: Pdf, content: bytes, **entries: object) -> Stream:
    form = Stream(pdf, content, Type=Name.XObject, Subtype=Name.Form, **entries)
    form.BBox = [0, 0, 1000, 1000]
    return pdf.make_indirect(form)


def draw(pdf: Pdf, content: bytes, page: int = 0, **drawn: Stream) -> None:
    pdf.pages[page].Contents = pdf.make_stream(content)
    pdf.pages[page].Resources = Dictionary(XObject=Dictionary(**drawn))


def placed(pdf: Pdf, image: Stream) -> Placement | None:
    found = survey(pdf.pages).placements.get(image.objgen)
    return found and Placement(round(found.width, 6), round(found.height, 6))


def test_the_matrix_gives_the_size(pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, b"q 200 0 0 100 30 40 cm /Im Do Q", Im=image)
    assert placed(pdf, image) == Placement(200, 100)


def test_matrices_multiply_and_are_restored(pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, b"q 9 0 0 9 0 0 cm Q 2 0 0 3 0 0 cm q 10 0 0 10 0 0 cm /Im Do Q", Im=image)
    assert placed(pdf, image) == Placement(20, 30)


def test_a_turned_image_has_the_size_of_its_sides(pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, b"0 1 -1 0 0 0 cm 200 0 0 100 0 0 cm /Im Do", Im=image)
    assert placed(pdf, image) == Placement(200, 100)


def test_too_many_restores_do_no_harm(pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, b"5 0 0 5 0 0 cm Q Q Q q 7 0 0 7 0 0 cm /Im Do Q", Im=image)
    assert placed(pdf, image) == Placement(7, 7)


def test_the_largest_of_all_placements_on_all_pages_counts(pdf: Pdf) -> None:
    image = an_image(pdf)
    pdf.add_blank_page(page_size=(600, 800))
    draw(pdf, b"q 50 0 0 10 0 0 cm /Im Do Q q 20 0 0 40 0 0 cm /Im Do Q", Im=image)
    draw(pdf, b"q 10 0 0 90 0 0 cm /Im Do Q", page=1, Im=image)
    assert placed(pdf, image) == Placement(50, 90)


def test_forms_within_forms_are_followed(pdf: Pdf) -> None:
    image = an_image(pdf)
    inner = a_form(
        pdf,
        b"10 0 0 10 0 0 cm /Im Do",
        Matrix=Array([2, 0, 0, 2, 0, 0]),
        Resources=Dictionary(XObject=Dictionary(Im=image)),
    )
    outer = a_form(
        pdf, b"3 0 0 3 0 0 cm /Fm Do", Resources=Dictionary(XObject=Dictionary(Fm=inner))
    )
    draw(pdf, b"q 2 0 0 1 0 0 cm /Fm Do Q", Fm=outer)
    assert placed(pdf, image) == Placement(120, 60)


def test_a_form_without_resources_uses_the_pages(pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, b"/Fm Do", Fm=a_form(pdf, b"10 0 0 20 0 0 cm /Im Do"), Im=image)
    assert placed(pdf, image) == Placement(10, 20)


def test_a_form_that_draws_itself_ends(pdf: Pdf) -> None:
    image = an_image(pdf)
    form = a_form(pdf, b"10 0 0 10 0 0 cm /Im Do /Fm Do")
    form.Resources = Dictionary(XObject=Dictionary(Im=image, Fm=form))
    draw(pdf, b"/Fm Do", Fm=form)
    assert placed(pdf, image) is None


def test_forms_that_multiply_endlessly_are_given_up(
    pdf: Pdf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveying, "_OPERATIONS_MAX", 5_000)
    image = an_image(pdf)
    form = a_form(pdf, b"/Im Do", Resources=Dictionary(XObject=Dictionary(Im=image)))
    for _ in range(8):
        form = a_form(pdf, b"/Fm Do " * 10, Resources=Dictionary(XObject=Dictionary(Fm=form)))
    draw(pdf, b"/Fm Do", Fm=form)
    assert placed(pdf, image) is None


def test_a_soft_mask_is_placed_where_its_image_is(pdf: Pdf) -> None:
    mask = an_image(pdf)
    image = an_image(pdf, SMask=mask)
    draw(pdf, b"70 0 0 80 0 0 cm /Im Do", Im=image)
    assert placed(pdf, mask) == Placement(70, 80)


def test_patterns_and_soft_mask_groups_are_followed(pdf: Pdf) -> None:
    image, other = an_image(pdf), an_image(pdf)
    page = pdf.pages[0]
    tile = a_form(
        pdf,
        b"10 0 0 10 0 0 cm /Im Do",
        PatternType=1,
        Matrix=Array([4, 0, 0, 4, 0, 0]),
        Resources=Dictionary(XObject=Dictionary(Im=image)),
    )
    group = a_form(
        pdf, b"5 0 0 5 0 0 cm /Im Do", Resources=Dictionary(XObject=Dictionary(Im=other))
    )
    page.Contents = pdf.make_stream(b"3 0 0 3 0 0 cm /Gs gs 0 0 1 1 re f")
    page.Resources = Dictionary(
        Pattern=Dictionary(P1=tile),
        ExtGState=Dictionary(Gs=Dictionary(SMask=Dictionary(S=Name.Luminosity, G=group))),
    )
    assert placed(pdf, image) == Placement(40, 40)
    assert placed(pdf, other) == Placement(15, 15)


def test_an_annotation_is_scaled_into_its_box(pdf: Pdf) -> None:
    image = an_image(pdf)
    look = a_form(
        pdf, b"100 0 0 100 0 0 cm /Im Do", Resources=Dictionary(XObject=Dictionary(Im=image))
    )
    look.BBox = [0, 0, 100, 100]
    stamp = Dictionary(
        Type=Name.Annot, Subtype=Name.Stamp, Rect=[10, 10, 60, 40], AP=Dictionary(N=look)
    )
    pdf.pages[0].Annots = pdf.make_indirect(Array([stamp]))
    assert placed(pdf, image) == Placement(50, 30)


def test_a_user_unit_scales_the_page(pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, b"10 0 0 10 0 0 cm /Im Do", Im=image)
    pdf.pages[0].UserUnit = 2
    assert placed(pdf, image) == Placement(20, 20)


def test_an_image_that_nothing_draws_is_unknown(pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, b"q Q", Im=image)
    assert placed(pdf, image) is None


@pytest.mark.parametrize(
    "content",
    [b"/Im Do", b"1 2 3 cm /Im Do", b"/Nowhere Do /No gs /Im Do", b"(x) Do ] /Im Do"],
)
def test_malformed_contents_do_no_harm(content: bytes, pdf: Pdf) -> None:
    image = an_image(pdf)
    draw(pdf, content, Im=image)
    assert placed(pdf, image) in {None, Placement(1, 1)}


def test_every_page_is_reported(pdf: Pdf) -> None:
    seen: list[float] = []
    pdf.add_blank_page()
    survey(Progress(seen.append).over(list(pdf.pages), 0.2, 0.6))
    assert seen == pytest.approx([0.2, 0.4, 0.6])


def test_an_image_keeps_its_samples_where_a_page_cannot_be_followed() -> None:
    pdf = pikepdf.new()
    noise = hashlib.shake_256(b"noise").digest(400 * 400)
    image = pdf.make_indirect(
        Stream(
            pdf,
            noise,
            Type=Name.XObject,
            Subtype=Name.Image,
            Width=400,
            Height=400,
            BitsPerComponent=8,
            ColorSpace=Name.DeviceGray,
        )
    )
    for content in (b"36 0 0 36 0 0 cm /Im Do", b"360.0.0 0 0 360 0 0 cm /Im Do"):
        page = pdf.add_blank_page(page_size=(400, 400)).obj
        page.Resources = Dictionary(XObject=Dictionary(Im=image))
        page.Contents = pdf.make_stream(content)
    file = io.BytesIO()
    pdf.save(file)
    with pikepdf.open(file) as opened:
        shrink(opened, steps_from(Level.MEDIUM, 80)[0].aim, Progress(lambda _: None))
        kept = opened.pages[1].Resources.XObject.Im
        assert (kept.Width, kept.Height) == (400, 400)


def test_an_appearance_without_resources_shows_in_the_pages_font(pdf: Pdf) -> None:
    font = pdf.make_indirect(Dictionary(Type=Name.Font, Subtype=Name.TrueType))
    look = a_form(pdf, b"BT /F1 9 Tf (X) Tj ET")
    page = pdf.pages[0].obj
    page.Resources = Dictionary(Font=Dictionary(F1=font))
    page.Annots = Array([Dictionary(Subtype=Name.Stamp, Rect=[0, 0, 9, 9], AP=Dictionary(N=look))])
    assert b"(X)" in survey(pdf.pages).shown[font.objgen]


@pytest.mark.parametrize("by", [b"/F1 72 Tf", b"/GS1 gs"])
def test_an_image_within_a_glyph_is_as_large_as_the_glyph_may_be(by: bytes, pdf: Pdf) -> None:
    image = an_image(pdf)
    glyph = pdf.make_indirect(Stream(pdf, b"1 0 0 1 0 0 cm /Im Do"))
    font = pdf.make_indirect(
        Dictionary(
            Type=Name.Font,
            Subtype=Name.Type3,
            FontMatrix=[1, 0, 0, 1, 0, 0],
            CharProcs=Dictionary(a=glyph),
            Resources=Dictionary(XObject=Dictionary(Im=image)),
        )
    )
    page = pdf.pages[0].obj
    page.Resources = Dictionary(
        Font=Dictionary(F1=font), ExtGState=Dictionary(GS1=Dictionary(Font=Array([font, 72])))
    )
    page.Contents = pdf.make_stream(b"BT " + by + b" (a) Tj ET")
    assert survey(pdf.pages).placements[image.objgen].width > 1e6


def test_glyphs_without_resources_show_what_each_page_has(pdf: Pdf) -> None:
    glyph = pdf.make_indirect(Stream(pdf, b"BT /F1 1 Tf (x) Tj ET"))
    drawn = pdf.make_indirect(
        Dictionary(Type=Name.Font, Subtype=Name.Type3, CharProcs=Dictionary(a=glyph))
    )
    pdf.add_blank_page(page_size=(600, 800))
    fonts = [pdf.make_indirect(Dictionary(Type=Name.Font, Number=each)) for each in range(2)]
    for page, font in zip(pdf.pages, fonts, strict=True):
        page.obj.Resources = Dictionary(Font=Dictionary(F1=font, T3=drawn))
        page.obj.Contents = pdf.make_stream(b"BT /T3 9 Tf (a) Tj ET")
    shown = survey(pdf.pages).shown
    assert all(b"(x)" in shown[font.objgen] for font in fonts)
