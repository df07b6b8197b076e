"""The hostile files that take longer: scripts/test tests/fuzz."""

from pathlib import Path

import pytest

from tests.unit.compression.hostile import LONG
from tests.unit.compression.test_hostile import held


@pytest.mark.parametrize("name", sorted(LONG))
def test_a_hostile_file_that_takes_long_ends_in_time(name: str, tmp_path: Path) -> None:
    held(name, tmp_path)
