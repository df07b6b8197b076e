"""Page contents, fonts and attachments are packed better, and come out the same."""

import pikepdf
import pytest
from pikepdf import Array, Name

from backend.compression.engine.streams import deflated

PDF = pikepdf.new()
TEXT = b"BT /F1 12 Tf (many words, and again many words) Tj ET\n" * 200


def test_a_plain_stream_is_packed() -> None:
    stream = PDF.make_stream(TEXT)
    packed = deflated(stream)
    assert packed is not None
    stream.write(packed, filter=Name.FlateDecode)
    assert stream.read_bytes() == TEXT


def test_an_old_filter_is_replaced() -> None:
    stream = PDF.make_stream(b"")
    stream.write(TEXT.hex().encode() + b">", filter=Array([Name.ASCIIHexDecode]))
    packed = deflated(stream)
    assert packed is not None
    assert len(packed) < len(TEXT) / 10


def test_what_is_packed_well_is_left() -> None:
    stream = PDF.make_stream(TEXT)
    stream.write(deflated(stream) or b"", filter=Name.FlateDecode)
    assert deflated(stream) is None


@pytest.mark.parametrize("kind", [Name.XRef, Name.ObjStm])
def test_the_files_own_structure_is_left(kind: Name) -> None:
    assert deflated(PDF.make_stream(TEXT, Type=kind)) is None


def test_metadata_is_left_where_it_must_be_legible() -> None:
    metadata = PDF.make_stream(TEXT, Type=Name.Metadata)
    assert deflated(metadata, archived=True) is None
    assert len(deflated(metadata) or TEXT) < len(TEXT) / 10


def test_a_stream_that_does_not_unpack_is_left() -> None:
    stream = PDF.make_stream(b"")
    stream.write(b"no flate at all", filter=Name.FlateDecode)
    assert deflated(stream) is None
