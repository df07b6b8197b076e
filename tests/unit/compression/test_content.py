"""Numbers in content streams get shorter, and nothing else changes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.compression.engine.content import rounded


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"1.23456 0.00012345 l", b"1.2346 .00012 l"),
        (b"-0.000001 m", b"0 m"),
        (b"12.34567 -123.456789 99.99999 l", b"12.346 -123.46 100 l"),
        (b"[1.000001]0 d 0.50000 g", b"[1]0 d .5 g"),
        (b"(a 1.23456 (2.34567)) Tj 3.456789 Tw", b"(a 1.23456 (2.34567)) Tj 3.4568 Tw"),
        (b"[(a)-2.34567<312e3233343536>]TJ", b"[(a)-2.3457<312e3233343536>]TJ"),
        (b"/F1.23456 9.999999 Tf", b"/F1.23456 10 Tf"),
        (b"% 1.23456\n1.23456 w", b"% 1.23456\n1.2346 w"),
        (b"BI /W 1 ID 1.23456 EI 1.23456 w", b"BI /W 1 ID 1.23456 EI 1.2346 w"),
        (b"1.5 2 3.25 re", b"1.5 2 3.25 re"),
        (
            b"q 576.5653 0 0 841.8898 9.35524 0.0000 cm 576.5653 w",
            b"q 576.5653 0 0 841.8898 9.35524 0.0000 cm 576.57 w",
        ),
    ],
)
def test_only_numbers_change(before: bytes, after: bytes) -> None:
    assert rounded(before) == after


@given(st.lists(st.decimals(-9999, 9999, places=7, allow_nan=False), min_size=1, max_size=20))
def test_a_number_moves_by_no_more_than_is_promised(numbers: list[object]) -> None:
    written = " ".join(f"{number:f}" for number in numbers) + " 1.00001 l"
    after = re.split(rb"\s+", rounded(written.encode()))[: len(numbers)]
    for number, short in zip(numbers, after, strict=True):
        most = max(0.5e-5, abs(float(str(number))) * 0.5e-4)
        assert abs(float(short) - float(str(number))) <= min(most, 0.005) * 1.0001, short
