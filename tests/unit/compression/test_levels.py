import pytest

from backend.compression.engine.errors import QualityOutOfRange
from backend.compression.engine.levels import Aim, Level, aim_of


def test_lossless_has_no_aim() -> None:
    assert aim_of(Level.LOSSLESS, 80) is None


def test_each_level_asks_for_less_than_the_one_before() -> None:
    low, medium, high = (aim_of(level, 80) for level in (Level.LOW, Level.MEDIUM, Level.HIGH))
    assert isinstance(low, Aim)
    assert isinstance(medium, Aim)
    assert isinstance(high, Aim)
    assert low.dpi > medium.dpi > high.dpi
    assert low.quality > medium.quality > high.quality


@pytest.mark.parametrize("level", [Level.LOW, Level.MEDIUM, Level.HIGH])
@pytest.mark.parametrize("quality", [1, 100])
def test_the_quality_stays_one_that_libjpeg_takes(level: Level, quality: int) -> None:
    aim = aim_of(level, quality)
    assert aim is not None
    assert 1 <= aim.quality <= 95


def test_a_quality_out_of_range_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="0; it can be 1 to 100"):
        aim_of(Level.LOW, 0)
    assert issubclass(QualityOutOfRange, ValueError)
