"""Files that somebody made to harm whoever opens them; each is a few lines."""

import struct
import zlib
from collections.abc import Callable, Iterable

GIGABYTE = 10**9
MEGABYTE = 10**6

FILES: dict[str, Callable[[], bytes]] = {}


def hostile(make: Callable[[], bytes]) -> Callable[[], bytes]:
    FILES[make.__name__] = make
    return make


# ---------------------------------------------------------------- how PDFs are put together


def pdf(objects: Iterable[bytes], trailer: bytes = b"/Root 1 0 R") -> bytes:
    """A file of these objects, numbered from 1."""
    parts, places, at = [b"%PDF-1.7\n"], [], 9
    for number, each in enumerate(objects, 1):
        places.append(at)
        parts.append(b"%d 0 obj\n%b\nendobj\n" % (number, each))
        at += len(parts[-1])
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(places) + 1)
    ends = b"trailer\n<</Size %d %b>>\nstartxref\n%d\n%%%%EOF\n" % (len(places) + 1, trailer, at)
    return b"".join([*parts, head, table, ends])


def stream(data: bytes, entries: bytes = b"") -> bytes:
    return b"<</Length %d %b>>stream\n%b\nendstream" % (len(data), entries, data)


def page(
    content: bytes = b"/X Do",
    *others: bytes,
    resources: bytes = b"/XObject <</X 5 0 R>>",
    root: bytes = b"",
    entries: bytes = b"",
) -> bytes:
    """A document of one page, whose content is object 4; the others are numbered from 5."""
    if b"endstream" not in content:
        content = stream(content)
    return pdf(
        [
            b"<</Type /Catalog /Pages 2 0 R %b>>" % root,
            b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
            b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 288 288] /Contents 4 0 R"
            b" /Resources <<%b>> %b>>" % (resources, entries),
            content,
            *others,
        ]
    )


def image(data: bytes, width: int, height: int, entries: bytes) -> bytes:
    head = b"/Type /XObject /Subtype /Image /Width %d /Height %d " % (width, height)
    return stream(data, head + entries)


def padding(size: int = 50_000) -> bytes:
    """An object that can be made smaller, so that there is something to write."""
    return stream(b"padding " * (size // 8))


# ---------------------------------------------------------------- what unpacks to too much


def repeated(unit: bytes, times: int) -> bytes:
    """A zlib stream of a unit so many times over, made without unpacking it anywhere."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(unit) + packer.flush(zlib.Z_FULL_FLUSH)
    low, high, one = 1, 0, zlib.adler32(unit)
    # Adler-32 of a concatenation (RFC 1950, 8): sums that go on from each other.
    for _ in range(times):
        high = (high + (one >> 16) + (low - 1) * len(unit)) % 65521
        low = (low + (one & 0xFFFF) - 1) % 65521
    return b"\x78\xda" + block * times + b"\x03\x00" + struct.pack(">I", high << 16 | low)


def zeros(size: int) -> bytes:
    return repeated(bytes(MEGABYTE), size // MEGABYTE)


FLATE = b"/Filter /FlateDecode "
TWICE = b"/Filter [/FlateDecode /FlateDecode] "
RGB = b"/ColorSpace /DeviceRGB /BitsPerComponent 8 "


@hostile
def flate_image_of_gigabytes() -> bytes:
    return page(b"/X Do", image(zeros(3 * GIGABYTE), 30000, 30000, FLATE + RGB), padding())


@hostile
def flate_of_flate_image() -> bytes:
    data = zlib.compress(zeros(10 * GIGABYTE), 9)
    return page(b"/X Do", image(data, 9000, 9000, TWICE + RGB), padding())


@hostile
def image_within_all_limits() -> bytes:
    """As large as an image can be that is read."""
    return page(b"/X Do", image(zeros(300 * MEGABYTE), 10000, 10000, FLATE + RGB), padding())


@hostile
def inks_within_all_limits() -> bytes:
    entries = b"/ColorSpace /DeviceCMYK /BitsPerComponent 8 "
    return page(b"/X Do", image(zeros(400 * MEGABYTE), 10000, 10000, FLATE + entries), padding())


@hostile
def bilevel_within_all_limits() -> bytes:
    entries = b"/ColorSpace /DeviceGray /BitsPerComponent 1 "
    return page(b"/X Do", image(zeros(13 * MEGABYTE), 10000, 10000, FLATE + entries), padding())


@hostile
def many_images_within_all_limits() -> bytes:
    data = zeros(300 * MEGABYTE)
    images = [image(data, 10000, 10000 - each, FLATE + RGB) for each in range(40)]
    return page(b"/X Do", *images, padding())


@hostile
def many_small_bombs() -> bytes:
    data = zlib.compress(zeros(200 * MEGABYTE), 9)
    return page(b"/X Do", *(stream(data, TWICE + b"/N %d" % each) for each in range(300)))


@hostile
def content_of_gigabytes() -> bytes:
    return page(stream(repeated(b"q Q " * 250_000, 5000), FLATE), padding())


@hostile
def content_within_all_limits() -> bytes:
    """Of as many operators as fit."""
    return page(stream(repeated(b"q Q " * 250_000, 200), FLATE), padding())


@hostile
def content_of_numbers() -> bytes:
    unit = b"0.12345 " * 125_000
    return page(stream(repeated(unit, 200), FLATE), padding())


@hostile
def content_of_names() -> bytes:
    unit = b".12345 " + b"/a" * 500_000
    return page(stream(repeated(unit, 200), FLATE), padding())


@hostile
def many_pages_of_one_long_content() -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(4, 1004))
    return pdf(
        [
            b"<</Type /Catalog /Pages 2 0 R>>",
            b"<</Type /Pages /Kids [%b] /Count 1000 /MediaBox [0 0 9 9]"
            b" /Resources <</XObject <<>>>>>>" % kids,
            stream(repeated(b"%" + b"x" * 999_999, 200), FLATE),
            *[b"<</Type /Page /Parent 2 0 R /Contents 3 0 R>>"] * 1000,
        ]
    )


@hostile
def one_content_a_thousand_times() -> bytes:
    parts = b"5 0 R " * 1000
    return page(
        b"<</Length 0>>stream\n\nendstream",
        stream(repeated(b"%" + b"x" * 999_999, 200), FLATE),
        entries=b"/Contents [%b]" % parts,
    )


@hostile
def metadata_of_gigabytes() -> bytes:
    bomb = stream(zeros(10 * GIGABYTE), FLATE + b"/Type /Metadata /Subtype /XML")
    return page(b"", bomb, padding(), root=b"/Metadata 5 0 R")


@hostile
def metadata_that_searches_are_slow_in() -> bytes:
    words = stream(b"pdfaid:part pdfaid:conformance pdfuaid:part =  " * 30_000, b"/Type /Metadata")
    return page(b"", words, padding(), root=b"/Metadata 5 0 R")


@hostile
def attachments_of_gigabytes() -> bytes:
    names = b" ".join(b"(%d) <</EF <</F %d 0 R>> /F (%d)>>" % (n, n, n) for n in range(5, 105))
    bombs = [
        stream(zlib.compress(zeros(400 * MEGABYTE), 9), TWICE + b"/N %d" % n) for n in range(1)
    ] * 100
    root = b"/Names <</EmbeddedFiles <</Names [%b]>>>>" % names
    return page(b"", *bombs, padding(), root=root)


@hostile
def profile_of_gigabytes() -> bytes:
    space = b"/ColorSpace [/ICCBased 6 0 R] /BitsPerComponent 8 "
    return page(
        b"/X Do",
        image(bytes(30_000), 100, 100, space),
        stream(zeros(5 * GIGABYTE), FLATE + b"/N 3"),
    )


@hostile
def font_of_gigabytes() -> bytes:
    return page(
        b"BT /F 9 Tf (abc) Tj ET",
        b"<</Type /Font /Subtype /TrueType /BaseFont /A /FontDescriptor 6 0 R>>",
        b"<</Type /FontDescriptor /FontName /A /FontFile2 7 0 R>>",
        stream(zeros(5 * GIGABYTE), FLATE),
        padding(),
        resources=b"/Font <</F 5 0 R>>",
    )


@hostile
def object_stream_of_gigabytes() -> bytes:
    return page(
        b"/X Do", stream(zeros(5 * GIGABYTE), FLATE + b"/Type /ObjStm /N 100000 /First 100")
    ).replace(b"/Root 1 0 R", b"/Root 1 0 R /Prev 9")


@hostile
def xref_stream_of_gigabytes() -> bytes:
    entries = b"/Type /XRef /Size 2000000000 /W [1 1 1] /Root 1 0 R "
    body = b"%PDF-1.7\n1 0 obj\n" + stream(zeros(6 * GIGABYTE), FLATE + entries) + b"\nendobj\n"
    return body + b"startxref\n9\n%%EOF\n"


@hostile
def run_lengths() -> bytes:
    data = zlib.compress(b"\x81\0" * 5_000_000, 9)
    filters = b"/Filter [/FlateDecode /RunLengthDecode] "
    return page(b"/X Do", image(data, 20000, 20000, filters + RGB), padding())


@hostile
def predictor_of_long_rows() -> bytes:
    parms = b"/DecodeParms <</Predictor 15 /Columns 2000000000 /Colors 4>> "
    return page(b"/X Do", image(zlib.compress(bytes(9999)), 99, 99, FLATE + RGB + parms), padding())


@hostile
def a_thousand_filters() -> bytes:
    data = b"words " * 10_000
    for _ in range(1000):
        data = zlib.compress(data, 1)
    return page(stream(data, b"/Filter [%b]" % (b"/FlateDecode " * 1000)), padding())


@hostile
def a_hundred_thousand_filters() -> bytes:
    return page(stream(b"00>", b"/Filter [%b]" % (b"/ASCIIHexDecode " * 100_000)), padding())


# ---------------------------------------------------------------- images that lie


def jpeg(width: int, height: int, sof: int = 0xC0) -> bytes:
    table = b"\xff\xdb\0\x43\0" + b"\1" * 64
    frame = struct.pack(">BBHBHHB", 0xFF, sof, 17, 8, height, width, 3)
    frame += b"\1\x11\0\2\x11\0\3\x11\0"
    codes = b"\xff\xc4\0\x14\0\1" + bytes(16) + b"\xff\xc4\0\x14\x10\1" + bytes(16)
    scan = b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0"
    return b"\xff\xd8" + table + frame + codes + scan + bytes(5000) + b"\xff\xd9"


@hostile
def jpeg_of_a_gigapixel() -> bytes:
    entries = b"/Filter /DCTDecode " + RGB
    return page(b"/X Do", image(jpeg(30000, 30000), 30000, 30000, entries), padding())


@hostile
def progressive_jpeg_within_all_limits() -> bytes:
    data = jpeg(10000, 10000, 0xC2)
    start, end = data.index(b"\xff\xda"), len(data) - 2
    data = data[:start] + data[start:end] * 300 + data[end:]
    return page(b"/X Do", image(data, 10000, 10000, b"/Filter /DCTDecode " + RGB), padding())


@hostile
def jpeg_that_is_larger_than_it_says() -> bytes:
    entries = b"/Filter /DCTDecode " + RGB
    return page(b"/X Do", image(jpeg(65500, 65500), 10, 10, entries), padding())


@hostile
def jpeg_in_flate_of_gigabytes() -> bytes:
    entries = b"/Filter [/FlateDecode /DCTDecode] " + RGB
    data = repeated(jpeg(9000, 9000).ljust(MEGABYTE, b"\0"), 3000)
    return page(b"/X Do", image(data, 9000, 9000, entries), padding())


def jpeg2000(width: int, height: int, count: int, tile: int) -> bytes:
    size = struct.pack(">HIIIIIIII", 0, width, height, 0, 0, tile, tile, 0, 0)
    size += struct.pack(">H", count) + b"\7\1\1" * count
    header = b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size
    coding = b"\xff\x52\0\x0c\0\0\0\1\0\5\4\4\0\1" + b"\xff\x5c\0\x13\x40" + b"\x40" * 16
    return header + coding + b"\xff\x90\0\x0a\0\0\0\0\0\0\0\1\xff\x93" + bytes(2000) + b"\xff\xd9"


@hostile
def jpeg2000_of_a_gigapixel() -> bytes:
    data = jpeg2000(30000, 30000, 3, 30000)
    return page(b"/X Do", image(data, 30000, 30000, b"/Filter /JPXDecode"), padding())


@hostile
def jpeg2000_of_a_billion_tiles() -> bytes:
    data = jpeg2000(9000, 9000, 3, 1)
    return page(b"/X Do", image(data, 9000, 9000, b"/Filter /JPXDecode"), padding())


@hostile
def jpeg2000_of_many_components() -> bytes:
    data = jpeg2000(9000, 9000, 16384, 9000)
    return page(b"/X Do", image(data, 9000, 9000, b"/Filter /JPXDecode"), padding())


@hostile
def fax_of_a_gigapixel() -> bytes:
    parms = b"/BitsPerComponent 1 /ColorSpace /DeviceGray /Filter /CCITTFaxDecode "
    parms += b"/DecodeParms <</K -1 /Columns 30000 /Rows 30000>>"
    return page(b"/X Do", image(b"\xff" * 5000, 30000, 30000, parms), padding())


@hostile
def fax_within_all_limits() -> bytes:
    parms = b"/BitsPerComponent 1 /ColorSpace /DeviceGray /Filter /CCITTFaxDecode "
    parms += b"/DecodeParms <</K -1 /Columns 10 /Rows 10000000>>"
    return page(b"/X Do", image(b"\xff" * 5_000_000, 10, 10_000_000, parms), padding())


@hostile
def jbig2_of_a_gigapixel() -> bytes:
    parms = b"/BitsPerComponent 1 /ColorSpace /DeviceGray /Filter /JBIG2Decode "
    head = struct.pack(">IBBBI", 0, 48, 0, 1, 19) + struct.pack(">IIIIBH", 60000, 60000, 0, 0, 0, 0)
    region = struct.pack(">IIIIBB", 60000, 60000, 0, 0, 0, 0) + bytes(1000)
    head += struct.pack(">IBBBI", 1, 38, 0, 1, len(region)) + region
    return page(b"/X Do", image(head, 60000, 60000, parms), padding())


@hostile
def image_of_one_row() -> bytes:
    data = zeros(100 * MEGABYTE)
    entries = FLATE + b"/ColorSpace /DeviceGray /BitsPerComponent 8 "
    return page(b"/X Do", image(data, 100_000_000, 1, entries), padding())


@hostile
def image_of_one_column() -> bytes:
    data = zeros(100 * MEGABYTE)
    entries = FLATE + b"/ColorSpace /DeviceGray /BitsPerComponent 8 "
    return page(b"/X Do", image(data, 1, 100_000_000, entries), padding())


@hostile
def image_of_absurd_numbers() -> bytes:
    entries = b"/ColorSpace [/Indexed /DeviceRGB 99999999999 <00>] /BitsPerComponent 99999999999 "
    return page(b"/X Do", image(bytes(9999), 10**18, -(10**18), entries), padding(), padding())


@hostile
def palette_of_gigabytes() -> bytes:
    entries = b"/ColorSpace [/Indexed /DeviceRGB 255 6 0 R] /BitsPerComponent 8 "
    images = [image(bytes(10_000), 100, 100, entries)]
    return page(b"/X Do", *images, stream(zeros(2 * GIGABYTE), FLATE), padding())


@hostile
def many_images_of_a_large_palette() -> bytes:
    entries = b"/ColorSpace [/Indexed /DeviceRGB 255 5 0 R] /BitsPerComponent 8 "
    images = [image(bytes(10_000), 100, 100, entries + b"/N %d" % each) for each in range(500)]
    return page(b"", stream(zeros(250 * MEGABYTE), FLATE), *images, padding())


@hostile
def soft_masks_in_a_circle() -> bytes:
    gray = b"/ColorSpace /DeviceGray /BitsPerComponent 8 "
    return page(
        b"/X Do",
        image(bytes(range(100)) * 100, 100, 100, gray + b"/SMask 6 0 R"),
        image(bytes(range(100)) * 100, 100, 100, gray + b"/SMask 5 0 R /Mask 6 0 R"),
    )


# ---------------------------------------------------------------- structures without an end


@hostile
def a_million_objects() -> bytes:
    return pdf([*_one_page(), *[b"<</A 1>>"] * 1_000_000])


@hostile
def hundreds_of_thousands_of_streams() -> bytes:
    return pdf([*_one_page(), *[stream(b"1")] * 300_000])


def _one_page() -> list[bytes]:
    return [
        b"<</Type /Catalog /Pages 2 0 R>>",
        b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
        b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9]>>",
    ]


@hostile
def a_reference_to_object_two_billion() -> bytes:
    return page(b"", b"<</A 2147483646 0 R /B [2147483647 0 R 99999999999 0 R]>>", padding())


@hostile
def page_tree_ten_thousand_deep() -> bytes:
    nodes = [
        b"<</Type /Pages /Kids [%d 0 R] /Count 1 /Parent %d 0 R>>" % (number + 1, number - 1)
        for number in range(2, 10_002)
    ]
    last = b"<</Type /Page /MediaBox [0 0 9 9] /Parent 10001 0 R>>"
    return pdf([b"<</Type /Catalog /Pages 2 0 R>>", *nodes, last, padding()])


@hostile
def page_tree_in_a_circle() -> bytes:
    tree = b"<</Type /Pages /Kids [3 0 R 2 0 R] /Count 2>>"
    return page(b"", padding()).replace(b"<</Type /Pages /Kids [3 0 R] /Count 1>>", tree)


@hostile
def parents_in_a_circle() -> bytes:
    return page(b"", padding()).replace(b"/Count 1>>", b"/Parent 2 0 R /Count 1>>")


@hostile
def a_million_times_one_page() -> bytes:
    kids = b"[%b]" % (b"3 0 R " * 1_000_000)
    return page(b"0 0 9 9 re f", padding()).replace(b"[3 0 R]", kids)


@hostile
def a_hundred_thousand_pages() -> bytes:
    kids = b" ".join(b"%d 0 R" % number for number in range(3, 100_003))
    return pdf(
        [
            b"<</Type /Catalog /Pages 2 0 R>>",
            b"<</Type /Pages /Kids [%b] /Count 100000 /MediaBox [0 0 9 9]>>" % kids,
            *[b"<</Type /Page /Parent 2 0 R>>"] * 100_000,
        ]
    )


@hostile
def two_billion_pages_by_the_count() -> bytes:
    return page(b"", padding()).replace(b"/Count 1", b"/Count 2147483647")


@hostile
def a_million_annotations() -> bytes:
    return page(b"", b"<</Type /Annot>>", padding(), entries=b"/Annots [%b]" % (b"5 0 R " * 10**6))


@hostile
def a_million_annotations_with_appearances() -> bytes:
    look = stream(
        b"/X Do",
        b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources <</XObject <</X 7 0 R>>>>",
    )
    note = b"<</Type /Annot /Subtype /Stamp /Rect [0 0 9 9] /AP <</N 6 0 R>>>>"
    return page(
        b"",
        note,
        look,
        image(bytes(3), 1, 1, RGB),
        padding(),
        entries=b"/Annots [%b]" % (b"5 0 R " * 200_000),
    )


@hostile
def a_million_bookmarks() -> bytes:
    count = 1_000_000
    entries = [
        b"<</Title (a) /Parent 5 0 R /Next %d 0 R>>" % (number + 1)
        for number in range(6, 6 + count)
    ]
    root = b"/Outlines 5 0 R"
    return page(b"", b"<</First 6 0 R /Last %d 0 R>>" % (5 + count), *entries, root=root)


@hostile
def fields_in_a_circle() -> bytes:
    field = b"<</FT /Tx /T (a) /Kids [5 0 R 5 0 R] /Parent 5 0 R>>"
    return page(b"", field, padding(), root=b"/AcroForm <</Fields [5 0 R] /DR <</Font 5 0 R>>>>")


@hostile
def fields_that_multiply() -> bytes:
    levels = [
        b"<</FT /Tx /T (a) /Kids [%b]>>" % (b"%d 0 R " % (number + 1) * 1000)
        for number in range(5, 45)
    ]
    return page(b"", *levels, b"<</T (b)>>", padding(), root=b"/AcroForm <</Fields [5 0 R]>>")


@hostile
def names_in_a_circle() -> bytes:
    tree = b"<</Kids [5 0 R 5 0 R] /Limits [(a) (z)]>>"
    root = b"/Names <</Dests 5 0 R /EmbeddedFiles 5 0 R>> /PageLabels 5 0 R"
    return page(b"", tree, padding(), root=root)


@hostile
def names_that_multiply() -> bytes:
    levels = [b"<</Kids [%b]>>" % (b"%d 0 R " % (number + 1) * 50) for number in range(5, 25)]
    root = b"/Names <</Dests 5 0 R /EmbeddedFiles 5 0 R>>"
    return page(b"", *levels, b"<</Names [(a) (b)]>>", padding(), root=root)


@hostile
def names_ten_thousand_deep() -> bytes:
    levels = [b"<</Kids [%d 0 R]>>" % (number + 1) for number in range(5, 10_005)]
    root = b"/Names <</Dests 5 0 R /EmbeddedFiles 5 0 R>>"
    return page(b"", *levels, b"<</Names [(a) (b)]>>", padding(), root=root)


@hostile
def tags_that_multiply() -> bytes:
    levels = [b"<</S /P /K [%b]>>" % (b"%d 0 R " % (number + 1) * 1000) for number in range(5, 105)]
    return page(b"", *levels, b"<</S /P>>", padding(), root=b"/StructTreeRoot 5 0 R")


@hostile
def direct_tags_that_multiply() -> bytes:
    row = b"<</S /P>> " * 1000
    levels = [b"[%b]" % row, b"[<</S /P /K 5 0 R>> <</S /P /K 5 0 R>>]"]
    doubled = [b"[%b]" % (b"<</S /P /K %d 0 R>> " % (number - 1) * 1000) for number in range(6, 40)]
    root = b"/StructTreeRoot <</K 39 0 R>>"
    return page(b"", levels[0], *doubled, padding(), root=root)


@hostile
def xref_in_a_circle() -> bytes:
    file = page(b"", padding())
    at = file.rindex(b"startxref\n")
    start = int(file[at:].split()[1])
    return file.replace(b"/Root 1 0 R", b"/Root 1 0 R /Prev %d /XRefStm %d" % (start, start))


@hostile
def an_object_stream_that_contains_itself() -> bytes:
    row = struct.pack(">BHB", 2, 5, 0)
    rows = struct.pack(">BHB", 0, 0, 255) + row * 5 + struct.pack(">BHB", 1, 9, 0)
    objects = stream(
        b"5 0 1 10 2 20 <</A 1>>  <</B 5 0 R>>", b"/Type /ObjStm /N 3 /First 16 /Extends 5 0 R"
    )
    body = b"%PDF-1.7\n5 0 obj\n" + objects + b"\nendobj\n"
    table = stream(rows, b"/Type /XRef /Size 7 /W [1 2 1] /Root 1 0 R")
    return body + b"6 0 obj\n%b\nendobj\nstartxref\n%d\n%%%%EOF\n" % (table, len(body))


@hostile
def lengths_that_lie() -> bytes:
    file = page(b"0 0 9 9 re f " * 1000, padding(), padding())
    return file.replace(b"/Length 13000", b"/Length 99999999999").replace(
        b"/Length 50000", b"/Length 5 0 R"
    )


@hostile
def a_length_that_is_its_own_stream() -> bytes:
    return page(b"", b"<</Length 5 0 R>>stream\nabc\nendstream", padding())


@hostile
def an_object_of_a_hundred_thousand_brackets() -> bytes:
    return page(b"", b"[" * 100_000 + b"]" * 100_000, b"<</A " * 100_000 + b">>" * 100_000)


@hostile
def objects_of_brackets_within_all_limits() -> bytes:
    return page(b"", *[b"[" * 400 + b"]" * 400] * 1000, padding())


# ---------------------------------------------------------------- contents without an end


@hostile
def a_form_that_draws_itself() -> bytes:
    entries = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources <</XObject <</X 5 0 R>>>>"
    return page(b"/X Do", stream(b"/X Do " * 20, entries), padding())


@hostile
def forms_that_multiply() -> bytes:
    forms = [
        stream(
            b"/X Do " * 100,
            b"/Type /XObject /Subtype /Form /BBox [0 0 9 9]"
            b" /Resources <</XObject <</X %d 0 R>>>>" % (number + 1),
        )
        for number in range(5, 16)
    ]
    return page(b"/X Do", *forms, image(bytes(3), 1, 1, RGB), padding())


@hostile
def patterns_that_multiply() -> bytes:
    names = b" ".join(b"/P%d 5 0 R" % number for number in range(1000))
    entries = b"/PatternType 1 /Resources <</Pattern <<%b>>>>" % names
    resources = b"/Pattern <<%b>>" % names
    return page(b"", stream(b"", entries), padding(), resources=resources)


@hostile
def glyphs_that_multiply() -> bytes:
    font = b"<</Type /Font /Subtype /Type3 /CharProcs <<%b>> /Resources 6 0 R>>" % b" ".join(
        b"/G%d 5 0 R" % number for number in range(1000)
    )
    return page(
        b"/F 9 Tf (a) Tj",
        stream(b"/F 9 Tf (a) Tj"),
        b"<</Font <</F %b>>>>" % font,
        padding(),
        resources=b"/Font <</F %b>>" % font,
    )


@hostile
def inline_images_without_an_end() -> bytes:
    return page(b".12345 " + b"BI ID BI " * 100_000, padding())


@hostile
def inline_images_of_garbage() -> bytes:
    return page(
        b"BI /W 99999 /H 99999 /F [/Fl /Fl] ID " + bytes(range(256)) * 40 + b" EI", padding()
    )


@hostile
def strings_without_an_end() -> bytes:
    return page(b".12345 " + b"(" * 500_000, padding(), resources=b"/XObject <<>>")


@hostile
def strings_that_nearly_end() -> bytes:
    return page(b".12345 " + b"(a\\" * 300_000, padding(), resources=b"/XObject <<>>")


@hostile
def hexadecimal_strings_without_an_end() -> bytes:
    return page(b".12345 " + b"< " * 500_000, padding(), resources=b"/XObject <<>>")


@hostile
def a_content_of_a_hundred_thousand_brackets() -> bytes:
    return page(b"[" * 100_000 + b"<<" * 100_000 + b" 1 0 0 1 0 0 cm", padding())


@hostile
def a_million_saved_states() -> bytes:
    return page(b"q " * 1_000_000 + b"/X Do", image(bytes(3), 1, 1, RGB), padding())


@hostile
def a_million_numbers_before_an_operator() -> bytes:
    return page(b"1.23456 " * 1_000_000 + b"cm", padding())


@hostile
def matrices_out_of_reach() -> bytes:
    content = b"1e999 0 0 1e999 0 0 cm " + b"9999999999 0 0 9999999999 0 0 cm " * 100 + b"/X Do"
    return page(content, image(bytes(3 * 10_000), 100, 100, RGB), padding())


@hostile
def a_page_of_a_million_inches() -> bytes:
    box = b"[-99999999999 -99999999999 99999999999 99999999999] /UserUnit 1e30"
    return page(b"/X Do", image(bytes(30_000), 100, 100, RGB), padding()).replace(
        b"[0 0 288 288]", box
    )


# ---------------------------------------------------------------- fonts and profiles that lie


def truetype(**tables: bytes) -> bytes:
    """A font program of these tables and of what else it takes, with 65,535 glyphs."""
    count = 65_535
    loca = b"".join([struct.pack(">II", 0, 10 * MEGABYTE)] * (count // 2 + 1))
    found = {
        "cmap": b"",
        "glyf": bytes(10 * MEGABYTE),
        "head": bytes(50) + b"\0\1" + bytes(2),
        "hhea": bytes(34) + struct.pack(">H", count),
        "hmtx": bytes(4 * count),
        "loca": loca,
        "maxp": b"\0\1\0\0" + struct.pack(">H", count),
    } | tables
    directory, body, at = [], [], 12 + 16 * len(found)
    for tag, data in found.items():
        directory.append(struct.pack(">4sIII", tag.encode(), 0, at, len(data)))
        body.append(data)
        at += len(data)
    return b"\0\1\0\0" + struct.pack(">HHHH", len(found), 0, 0, 0) + b"".join(directory + body)


def shown_in(program: bytes) -> bytes:
    text = b"<%b>" % bytes(range(256)).hex().encode()
    return page(
        b"BT /F 9 Tf %b Tj ET" % text,
        b"<</Type /Font /Subtype /TrueType /BaseFont /A /FontDescriptor 6 0 R>>",
        b"<</Type /FontDescriptor /FontName /A /FontFile2 7 0 R>>",
        stream(zlib.compress(program), FLATE),
        padding(),
        resources=b"/Font <</F 5 0 R>>",
    )


def cmap(form: bytes, times: int = 1) -> bytes:
    entries = b"".join(struct.pack(">HHI", 3, 1, 4 + 8 * times) for _ in range(times))
    return struct.pack(">HH", 0, times) + entries + form


def form_4(count: int) -> bytes:
    head = struct.pack(">HHHHHHH", 4, 0, 0, 2 * count, 0, 0, 0)
    return head + b"\xff\xff" * count + bytes(2) + bytes(2) * count + bytes(4) * count


@hostile
def a_font_whose_glyphs_are_all_of_it() -> bytes:
    mapping = struct.pack(">HHHHH", 6, 0, 0, 0, 256)
    mapping += b"".join(struct.pack(">H", 2 * each) for each in range(256))
    return shown_in(truetype(cmap=cmap(mapping)))


@hostile
def a_font_of_two_billion_characters() -> bytes:
    return shown_in(truetype(cmap=cmap(form_4(32_767))))


@hostile
def a_font_of_thousands_of_maps() -> bytes:
    return shown_in(truetype(cmap=cmap(form_4(1), 8000)))


@hostile
def a_font_of_wide_groups() -> bytes:
    groups = struct.pack(">III", 0, 0x10FFFF, 0) * 50_000
    return shown_in(truetype(cmap=cmap(struct.pack(">HHIII", 12, 0, 0, 0, 50_000) + groups)))


@hostile
def a_font_of_many_tables() -> bytes:
    count = 65_535
    entries = b"".join(struct.pack(">IIII", each, 0, 0, 10 * MEGABYTE) for each in range(count))
    return shown_in(b"\0\1\0\0" + struct.pack(">HHHH", count, 0, 0, 0) + entries + bytes(9 * 10**6))


@hostile
def a_profile_whose_tags_are_all_of_it() -> bytes:
    size, count = 5 * MEGABYTE, 1000
    tags = b"".join(
        struct.pack(">4sII", b"A2B0" if each else b"B2A0", each, size) for each in range(count)
    )
    head = bytes(36) + b"acsp" + bytes(88) + struct.pack(">I", count)
    profile = (head + tags).ljust(size, b"\0")
    space = b"/ColorSpace [/ICCBased 6 0 R] /BitsPerComponent 8 "
    data = stream(zlib.compress(profile), FLATE + b"/N 3")
    return page(b"/X Do", image(bytes(30_000), 100, 100, space), data, padding())


@hostile
def objects_within_all_limits() -> bytes:
    return pdf([*_one_page(), padding(), *[b"<</A 1>>"] * 499_000])


@hostile
def streams_within_all_limits() -> bytes:
    return pdf([*_one_page(), padding(), *[stream(b"1")] * 499_000])


# What takes more than about four seconds, most of it in the renderer.
LONG = {
    "a_form_that_draws_itself",
    "a_hundred_thousand_pages",
    "a_million_annotations",
    "a_million_annotations_with_appearances",
    "a_million_bookmarks",
    "hundreds_of_thousands_of_streams",
    "a_million_times_one_page",
    "content_of_gigabytes",
    "content_of_names",
    "content_of_numbers",
    "content_within_all_limits",
    "fields_that_multiply",
    "flate_image_of_gigabytes",
    "flate_of_flate_image",
    "font_of_gigabytes",
    "forms_that_multiply",
    "image_of_one_column",
    "image_within_all_limits",
    "inks_within_all_limits",
    "jpeg2000_of_many_components",
    "jpeg_in_flate_of_gigabytes",
    "jpeg_of_a_gigapixel",
    "jpeg_that_is_larger_than_it_says",
    "many_images_of_a_large_palette",
    "many_pages_of_one_long_content",
    "metadata_of_gigabytes",
    "objects_within_all_limits",
    "one_content_a_thousand_times",
    "palette_of_gigabytes",
    "profile_of_gigabytes",
    "streams_within_all_limits",
}
