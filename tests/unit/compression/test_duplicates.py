"""What is stored several times is stored once."""

import hashlib
from pathlib import Path

import pikepdf
from pikepdf import Dictionary, Name, Pdf, Stream

from backend.compression.engine import Level, compress
from backend.compression.engine.duplicates import merge_duplicates

NOISE = hashlib.shake_256(b"noise").digest(20_000)


def two_pages() -> Pdf:
    pdf = pikepdf.new()
    for _ in range(2):
        file = pdf.make_stream(NOISE)
        font = Dictionary(
            Type=Name.Font,
            FontDescriptor=pdf.make_indirect(Dictionary(Type=Name.FontDescriptor, FontFile2=file)),
        )
        page = pdf.add_blank_page()
        page.Resources = Dictionary(Font=Dictionary(F1=pdf.make_indirect(font)))
    return pdf


def fonts_of(pdf: Pdf) -> list[tuple[int, int]]:
    return [page.Resources.Font.F1.objgen for page in pdf.pages]


def test_equal_fonts_are_merged_from_the_file_upwards() -> None:
    pdf = two_pages()
    second = fonts_of(pdf)[1]
    gone = merge_duplicates(pdf)
    one, other = fonts_of(pdf)
    assert one == other
    assert second in gone


def test_pages_are_never_merged() -> None:
    pdf = two_pages()
    merge_duplicates(pdf)
    assert len({page.objgen for page in pdf.pages}) == 2


def test_streams_that_differ_in_one_entry_stay_two() -> None:
    pdf = two_pages()
    pdf.pages[1].Resources.Font.F1.FontDescriptor.FontFile2.Length1 = 7
    merge_duplicates(pdf)
    one, other = fonts_of(pdf)
    assert one != other


def test_appearances_of_text_fields_stay_apart() -> None:
    pdf = pikepdf.new()
    looks = [pdf.make_stream(NOISE) for _ in range(2)]
    page = pdf.add_blank_page()
    page.Annots = pdf.make_indirect(
        pikepdf.Array(
            [
                pdf.make_indirect(
                    Dictionary(Type=Name.Annot, Subtype=Name.Widget, AP=Dictionary(N=look))
                )
                for look in looks
            ]
        )
    )
    assert merge_duplicates(pdf) == set()


def test_the_states_of_check_boxes_are_merged() -> None:
    pdf = pikepdf.new()
    for _ in range(2):
        states = Dictionary(On=pdf.make_stream(NOISE), Off=pdf.make_stream(NOISE[:100]))
        box = Dictionary(Type=Name.Annot, Subtype=Name.Widget, AP=Dictionary(N=states))
        pdf.add_blank_page().Annots = pikepdf.Array([pdf.make_indirect(box)])
    merge_duplicates(pdf)
    one, other = (page.Annots[0].AP.N for page in pdf.pages)
    assert one.On.objgen == other.On.objgen
    assert one.Off.objgen == other.Off.objgen != one.On.objgen


def test_forms_whose_resources_are_copies_are_merged() -> None:
    pdf = pikepdf.new()
    page = pdf.add_blank_page().obj
    forms = {}
    for name in ("One", "Two"):
        shading = Dictionary(ShadingType=2, ColorSpace=Name.DeviceGray, Coords=[0, 0, 1, 1])
        shading.Function = pdf.make_indirect(Dictionary(FunctionType=2, Domain=[0, 1], N=1))
        resources = Dictionary(Shading=Dictionary(Sh1=pdf.make_indirect(shading)))
        form = Stream(pdf, NOISE, Subtype=Name.Form, BBox=[0, 0, 1, 1])
        form.Resources = pdf.make_indirect(resources)
        forms[name] = form
    page.Resources = Dictionary(XObject=Dictionary(**forms))
    merge_duplicates(pdf)
    assert page.Resources.XObject.One.objgen == page.Resources.XObject.Two.objgen


def test_the_copies_leave_the_file(tmp_path: Path) -> None:
    source, target = tmp_path / "source.pdf", tmp_path / "small.pdf"
    two_pages().save(source)
    done = compress(source, target, level=Level.LOSSLESS)
    assert done.original_bytes > 2 * len(NOISE)
    assert done.compressed_bytes < 1.1 * len(NOISE)
    with pikepdf.open(target) as pdf:
        file = pdf.pages[1].Resources.Font.F1.FontDescriptor.FontFile2
        assert file.read_bytes() == NOISE
