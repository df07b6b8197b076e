"""What no reader shows is taken out, and nothing else."""

import pikepdf
from pikepdf import Dictionary, Name, Stream

from backend.compression.engine.document import objects_of
from backend.compression.engine.strip import strip


def test_private_data_and_previews_go_and_the_documents_metadata_stays() -> None:
    pdf = pikepdf.new()
    page = pdf.add_blank_page().obj
    page.PieceInfo = Dictionary(Illustrator=Dictionary(Private=pdf.make_stream(b"x" * 1000)))
    page.Thumb = pdf.make_stream(b"thumbnail")
    image = Stream(pdf, b"\0", Subtype=Name.Image, Width=1, Height=1)
    image.Metadata = pdf.make_stream(b"about the image")
    page.Resources = Dictionary(XObject=Dictionary(Im=pdf.make_indirect(image)))
    pdf.Root.Metadata = pdf.make_stream(b"about the document")

    assert strip(objects_of(pdf)) == 3
    assert not {"/PieceInfo", "/Thumb"} & set(page.keys())
    assert Name.Metadata not in page.Resources.XObject.Im
    assert pdf.Root.Metadata.read_bytes() == b"about the document"


def test_an_image_may_be_called_as_a_thumbnail_is() -> None:
    pdf = pikepdf.new()
    page = pdf.add_blank_page().obj
    image = pdf.make_indirect(Stream(pdf, b"0", Subtype=Name.Image))
    page.Resources = Dictionary(XObject=pdf.make_indirect(Dictionary(Thumb=image)))
    strip(objects_of(pdf))
    assert Name.Thumb in page.Resources.XObject
