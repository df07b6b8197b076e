"""What the caller of the bench may choose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much of what is measured, of which systems. Times in the unit of their name."""

    systems: Sequence[str]
    rounds: int
    jobs: int
    pick_ups: int
    pause_ms: int
    many: int
    singles: int
    backlog: int
    watchers: int
    watched_jobs: int
    flood: int
    patience_seconds: float
    say: Callable[[str], None]
