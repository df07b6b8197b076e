import pytest

from backend.compression.engine.progress import Interrupted, Progress


def test_a_fraction_never_falls_and_never_passes_1() -> None:
    seen: list[float] = []
    progress = Progress(seen.append)
    for fraction in (0.2, 0.1, 0.5, 7.0):
        progress(fraction)
    assert seen == [0.2, 0.2, 0.5, 1.0]


def test_items_share_a_stretch_evenly() -> None:
    seen: list[float] = []
    assert list(Progress(seen.append).over("abcd", 0.2, 0.6)) == list("abcd")
    assert seen == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6])


def test_no_items_take_no_time() -> None:
    seen: list[float] = []
    assert list(Progress(seen.append).over([], 0.2, 0.6)) == []
    assert seen == [0.6]


def test_what_the_callback_raises_is_carried_along() -> None:
    reason = ValueError("enough")

    def stop(_fraction: float) -> None:
        raise reason

    with pytest.raises(Interrupted) as interrupted:
        Progress(stop)(0.5)
    assert interrupted.value.reason is reason
