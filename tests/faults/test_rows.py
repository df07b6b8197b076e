"""Every row of the table has a test."""

import re
from pathlib import Path

TABLE = Path(__file__).with_name("README.md")
TESTS = Path(__file__).parents[1]


def test_every_row_of_the_table_has_a_test() -> None:
    rows = {int(number) for number in re.findall(r"^\| (\d+) \|", TABLE.read_text(), re.M)}
    marked = {
        int(number)
        for path in TESTS.rglob("test_*.py")
        for number in re.findall(r"^@pytest\.mark\.row\((\d+)\)", path.read_text(), re.M)
    }
    assert rows == set(range(1, 37))
    assert marked == rows
