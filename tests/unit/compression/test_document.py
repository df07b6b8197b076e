"""What must be seen in a document before it is touched."""

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, Pdf

from backend.compression.engine.document import is_signed, pdfa_claim


@pytest.fixture
def pdf() -> Pdf:
    pdf = pikepdf.new()
    pdf.add_blank_page()
    return pdf


def a_form(**entries: object) -> Dictionary:
    return Dictionary(**{"Fields": Array([]), **entries})


def a_signature() -> Dictionary:
    return Dictionary(Type=Name.Sig, ByteRange=[0, 1, 2, 3], Contents=pikepdf.String("x"))


def test_a_plain_document_is_not_signed(pdf: Pdf) -> None:
    assert not is_signed(pdf)


def test_a_field_with_a_signature_is_signed(pdf: Pdf) -> None:
    field = Dictionary(FT=Name.Sig, T="Here", V=a_signature())
    pdf.Root.AcroForm = a_form(Fields=[pdf.make_indirect(field)])
    assert is_signed(pdf)


def test_a_signature_in_a_child_field_is_found(pdf: Pdf) -> None:
    child = pdf.make_indirect(Dictionary(T="b", V=a_signature()))
    parent = pdf.make_indirect(Dictionary(FT=Name.Sig, T="a", Kids=[child]))
    pdf.Root.AcroForm = a_form(Fields=[parent])
    assert is_signed(pdf)


def test_an_empty_signature_field_is_not_signed(pdf: Pdf) -> None:
    field = pdf.make_indirect(Dictionary(FT=Name.Sig, T="Sign here"))
    pdf.Root.AcroForm = a_form(Fields=[field], SigFlags=1)
    assert not is_signed(pdf)


def test_a_document_that_may_only_grow_is_signed(pdf: Pdf) -> None:
    pdf.Root.AcroForm = a_form(SigFlags=3)
    assert is_signed(pdf)


@pytest.mark.parametrize("permission", ["/DocMDP", "/UR3"])
def test_a_certified_document_is_signed(permission: str, pdf: Pdf) -> None:
    pdf.Root.Perms = Dictionary({permission: a_signature()})
    assert is_signed(pdf)


def test_fields_that_are_their_own_children_end(pdf: Pdf) -> None:
    field = pdf.make_indirect(Dictionary(T="a"))
    field.Kids = Array([field])
    pdf.Root.AcroForm = a_form(Fields=[field])
    assert not is_signed(pdf)


@pytest.mark.parametrize("nonsense", [Name.Nonsense, Array([]), Dictionary(Fields=4, SigFlags="x")])
def test_a_form_of_the_wrong_type_is_not_signed(nonsense: pikepdf.Object, pdf: Pdf) -> None:
    pdf.Root.AcroForm = nonsense
    assert not is_signed(pdf)


@pytest.mark.parametrize("part", ["1", "2", "3"])
def test_the_claim_of_pdfa_is_read_and_nothing_is_written(part: str, pdf: Pdf) -> None:
    assert pdfa_claim(pdf) is None
    assert Name.Metadata not in pdf.Root
    with pdf.open_metadata() as metadata:
        metadata["pdfaid:part"] = part
        metadata["pdfaid:conformance"] = "B"
    before = pdf.Root.Metadata.read_bytes()
    assert pdfa_claim(pdf) == f"{part}b"
    assert pdf.Root.Metadata.read_bytes() == before


@pytest.mark.parametrize(
    "xmp",
    [b"<pdfaid:part>1</pdfaid:part>", b"<x pdfaid:part='1' y='2'/>", b'<x pdfaid:part = "1"/>'],
)
def test_the_part_may_be_an_element_or_an_attribute(xmp: bytes, pdf: Pdf) -> None:
    pdf.Root.Metadata = pdf.make_stream(xmp)
    assert pdfa_claim(pdf) == "1"


@pytest.mark.parametrize("metadata", [b"", b"<not", b"\xff\xfe\x00", b"<a/>"])
def test_broken_metadata_conforms_to_nothing(metadata: bytes, pdf: Pdf) -> None:
    pdf.Root.Metadata = pdf.make_stream(metadata)
    assert pdfa_claim(pdf) is None
