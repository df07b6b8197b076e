"""Telling the caller how far the work is, and letting the caller stop it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Interrupted(BaseException):
    """The caller's callback raised `reason`, which is not to be taken for a damaged document."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__()
        self.reason = reason


class Progress:
    """A fraction from 0 to 1 that never falls, reported to a callback."""

    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report
        self._fraction = 0.0

    def __call__(self, fraction: float) -> None:
        """Report a fraction; raises Interrupted with whatever the callback raises."""
        self._fraction = min(1.0, max(self._fraction, fraction))
        try:
            self._report(self._fraction)
        except BaseException as reason:
            raise Interrupted(reason) from reason

    def over(self, items: Sequence[T], start: float, end: float) -> Iterator[T]:
        """Yield the items, going from one fraction to another on the way."""
        for index, item in enumerate(items):
            self(start + (end - start) * index / len(items))
            yield item
        self(end)
