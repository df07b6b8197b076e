"""What is read of content streams, and what is stepped over."""

import pytest

from backend.compression.engine.tokens import operations


def read(content: bytes) -> list[object]:
    return list(operations(content))


def test_the_operators_that_matter_come_with_their_operands() -> None:
    content = b"q 1 0 0 -1.5 5 .6 cm /Im0 Do Q /GS1 gs BT /F1 12 Tf (one) Tj 1 0 0 RG 5 w S ET"
    assert read(content) == [
        (b"q", None),
        (b"cm", (1.0, 0.0, 0.0, -1.5, 5.0, 0.6)),
        (b"Do", "/Im0"),
        (b"Q", None),
        (b"gs", "/GS1"),
        (b"Tf", "/F1"),
        (b"Tj", frozenset({b"(one)"})),
    ]


@pytest.mark.parametrize(
    ("content", "strings"),
    [
        (b"(a)Tj", {b"(a)"}),
        (b"[(a)-20(b)]TJ", {b"(a)", b"(b)"}),
        (b"[<4142> 3 (c)] TJ", {b"<4142>", b"(c)"}),
        (b"(a (b (c)) d) '", {b"(a (b (c)) d)"}),
        (rb"(a\) \( b\\) Tj", {rb"(a\) \( b\\)"}),
        (b'1 2 (x) "', {b"(x)"}),
        (b"/P <</ActualText (not shown)>> BDC (shown) Tj EMC", {b"(shown)"}),
        (b"% (not) Tj\n(shown) Tj", {b"(shown)"}),
    ],
)
def test_strings_are_told_as_they_are_written(content: bytes, strings: set[bytes]) -> None:
    assert read(content) == [(b"Tj", frozenset(strings))]


def test_what_stands_in_strings_names_and_inline_images_is_no_operator() -> None:
    assert read(b"/cm gs (q Q Do) Tj") == [(b"gs", "/cm"), (b"Tj", frozenset({b"(q Q Do)"}))]
    assert read(b"q BI /W 2 /H 1 ID (Q cm( EI Q") == [(b"q", None), (b"Q", None)]


def test_a_name_is_told_without_its_escapes() -> None:
    assert read(b"/a#20b#2f Do") == [(b"Do", "/a b/")]


@pytest.mark.parametrize("content", [b"(a Tj", b"(a (b) Tj", b"1 0 x 1 0 0 cm"])
def test_what_cannot_be_told_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of float() or of this module
        read(content)


def test_a_long_line_without_an_end_takes_no_long_time() -> None:
    with pytest.raises(ValueError, match="without an end"):
        read(b"(" * 3 + b"a" * 1_000_000)


def test_an_inline_image_without_an_end_is_an_error_at_once() -> None:
    with pytest.raises(ValueError, match="without an end"):
        read(b"BI ID BI " * 100_000)


@pytest.mark.parametrize("data", [b"\x10 EI \nBI \x80\x81", b"\x10 EI Q \xff\xfe", b" EI BI (x"])
def test_an_image_whose_data_looks_like_its_end_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="image"):
        read(b"BI /W 4 /H 4 /BPC 8 /CS /G ID " + data + b"\nEI Q (XYZ) Tj")


def test_what_follows_an_image_within_the_content_is_told() -> None:
    content = b"BI /W 1 /H 1 /BPC 8 /CS /G ID \x80\nEI Q\nBT /F1 9 Tf (XYZ) Tj ET"
    assert read(content)[-1] == (b"Tj", frozenset({b"(XYZ)"}))
