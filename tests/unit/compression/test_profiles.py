"""Profiles lose what only printers need, and give the same colours."""

import io
import struct

import pikepdf
import pytest
from pikepdf import Array, Dictionary, Name, Pdf, Stream
from PIL import Image, ImageCms

from backend.compression.engine import profiles
from backend.compression.engine.document import objects_of


def a_profile(*more: bytes) -> bytes:
    """littleCMS's own sRGB, with a table that reads and tags that are for output."""
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = struct.unpack_from(">I", plain, 128)[0]
    extra = [(tag, bytes([index]) * 4000) for index, tag in enumerate(more)]
    shift = 12 * len(extra)
    entries, body, at = [], plain[132 + 12 * count :], len(plain) + shift
    for index in range(count):
        tag, start, size = struct.unpack_from(">4sII", plain, 132 + 12 * index)
        entries.append(struct.pack(">4sII", tag, start + shift, size))
    for tag, data in extra:
        entries.append(struct.pack(">4sII", tag, at, len(data)))
        body += data
        at += len(data)
    head = struct.pack(">I", at) + plain[4:128]
    return head + struct.pack(">I", len(entries)) + b"".join(entries) + body


def test_what_is_for_output_goes_and_the_rest_reads_as_before() -> None:
    profile = a_profile(b"A2B0", b"B2A0", b"B2A1", b"gamt")
    slim = profiles.slimmed(profile)
    assert len(slim) < len(profile) - 11_900
    assert struct.unpack_from(">I", slim)[0] == len(slim)
    count = struct.unpack_from(">I", slim, 128)[0]
    tags = {
        tag: slim[start : start + size]
        for tag, start, size in (
            struct.unpack_from(">4sII", slim, 132 + 12 * i) for i in range(count)
        )
    }
    assert tags[b"A2B0"] == bytes(4000)
    assert not {b"B2A0", b"B2A1", b"gamt"} & set(tags)
    assert {b"desc", b"wtpt", b"rXYZ"} <= set(tags)


def test_a_profile_of_a_monitor_loses_its_date_alone() -> None:
    profile = a_profile()
    undated = profiles.slimmed(profile)
    assert undated == profile[:24] + bytes(12) + profile[36:84] + bytes(16) + profile[100:]
    opened = ImageCms.ImageCmsProfile(io.BytesIO(undated))
    assert ImageCms.profileToProfile(Image.new("RGB", (1, 1), "red"), opened, opened) is not None


@pytest.mark.parametrize("data", [b"", b"acsp", bytes(200), bytes(36) + b"acsp" + b"\xff" * 200])
def test_what_is_no_profile_is_an_error(data: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        profiles.slimmed(data)


@pytest.fixture
def pdf() -> Pdf:
    pdf = pikepdf.new()
    pdf.add_blank_page()
    return pdf


def used(pdf: Pdf, profile: Stream) -> None:
    space = Array([Name.ICCBased, profile])
    pdf.pages[0].obj.Resources = Dictionary(ColorSpace=Dictionary(CS0=space))


def test_profiles_that_something_is_printed_or_blended_in_keep_what_is_for_output(
    pdf: Pdf,
) -> None:
    profile = a_profile(b"A2B0", b"B2A0", b"gamt")
    source, printed, blended = (pdf.make_indirect(Stream(pdf, profile, N=3)) for _ in range(3))
    used(pdf, source)
    pdf.Root.OutputIntents = Array([Dictionary(S=Name.GTS_PDFX, DestOutputProfile=printed)])
    space = Array([Name.ICCBased, blended])
    pdf.pages[0].obj.Group = Dictionary(S=Name.Transparency, CS=space)
    found = {stream.objgen: data for stream, data in profiles.slimmer(objects_of(pdf))}
    assert b"B2A0" not in found[source.objgen]
    for output in (printed, blended):
        assert b"B2A0" in found[output.objgen]
        assert b"gamt" not in found[output.objgen]
        assert found[output.objgen][12:16] == profile[12:16]


def test_a_printers_profile_keeps_the_way_to_its_inks() -> None:
    profile = bytearray(a_profile(b"A2B0", b"B2A0", b"gamt"))
    profile[12:16] = b"prtr"
    slim = profiles.slimmed(bytes(profile))
    assert slim[12:16] == b"prtr"
    assert b"B2A0" in slim
    assert b"gamt" not in slim
