import pytest

from backend.compression.engine.errors import QualityOutOfRange
from backend.compression.engine.levels import Aim, Level, all_steps, steps_from


def test_lossless_has_no_aim() -> None:
    (step,) = steps_from(Level.LOSSLESS, 80)
    assert step.aim is None


def test_each_level_asks_for_less_than_the_gentler_ones_that_follow() -> None:
    steps = steps_from(Level.HIGH, 80)
    assert [step.level for step in steps] == [Level.HIGH, Level.MEDIUM, Level.LOW, Level.LOSSLESS]
    high, medium, low = (step.aim for step in steps[:3])
    assert isinstance(low, Aim)
    assert isinstance(medium, Aim)
    assert isinstance(high, Aim)
    assert low.dpi > medium.dpi > high.dpi
    assert low.quality > medium.quality > high.quality
    floors = [step.floor for step in steps]
    assert floors == sorted(floors)


@pytest.mark.parametrize("quality", [1, 20, 80, 100])
def test_steps_to_a_size_get_stronger(quality: int) -> None:
    gentlest, *aims = (step.aim for step in all_steps(quality))
    assert gentlest is None
    wished = [(aim.dpi, aim.quality) for aim in aims if aim]
    assert wished == sorted(wished, reverse=True)


@pytest.mark.parametrize("level", [Level.LOW, Level.MEDIUM, Level.HIGH])
@pytest.mark.parametrize("quality", [1, 100])
def test_the_quality_stays_one_that_libjpeg_takes(level: Level, quality: int) -> None:
    aim = steps_from(level, quality)[0].aim
    assert aim is not None
    assert 1 <= aim.quality <= 95


def test_a_lower_quality_than_the_default_is_not_held_to_its_looks() -> None:
    assert steps_from(Level.HIGH, 20)[0].floor < steps_from(Level.HIGH, 80)[0].floor


def test_a_quality_out_of_range_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="0; it can be 1 to 100"):
        steps_from(Level.LOW, 0)
    assert issubclass(QualityOutOfRange, ValueError)
