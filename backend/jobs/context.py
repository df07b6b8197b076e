"""What a job's function is given: its place to work, its voice, and its ear for a cancel."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

from uuid_utils.compat import uuid7

from backend.jobs.kinds import JobKind

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

T = TypeVar("T")


class Cancelled(BaseException):
    """Somebody asked the job to stop. Not an Exception, so that no broad `except` swallows it."""


class SoftLimitReached(BaseException):
    """The job has run for longer than its kind allows."""


class LeaseLost(BaseException):
    """The job is another worker's by now; nothing that this one does counts."""


class Reporter(Protocol):
    """Where progress and log lines go."""

    @property
    def stop_wanted(self) -> bool:
        """Whether the job is asked to stop."""

    def progress(
        self, percent: float, stage: str, message: str, done: int | None, total: int | None
    ) -> None:
        """Show how far the job is."""

    def line(self, level: str, message: str) -> None:
        """Add a line to the job's log."""


@dataclass(frozen=True, slots=True)
class Unattended:
    """A reporter that nobody reads: for calling a job's function directly."""

    stop_wanted: bool = False

    def progress(self, *shown: Any) -> None:
        """Show nothing."""

    def line(self, level: str, message: str) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True)
class Published:
    """A file to become an artifact when the attempt succeeds."""

    path: Path
    name: str
    media_type: str


Effect = Callable[["Session"], None]


@dataclass(slots=True, kw_only=True)
class JobContext:
    """A running job's hands. In a unit test only the folder need be given."""

    folder: Path
    kind: JobKind[Any, Any] | None = None
    job_id: UUID = field(default_factory=uuid7)
    owner_id: int | None = None
    attempt: int = 1
    last_checkpoint: dict[str, Any] | None = None
    reporter: Reporter = field(default_factory=Unattended)
    fenced: Callable[[], AbstractContextManager[Any]] = nullcontext
    keep_checkpoint: Callable[[dict[str, Any]], None] = lambda _state: None
    published: list[Published] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    @property
    def workspace(self) -> Path:
        """A scratch directory of the attempt's own, made when it is asked for."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.folder

    def track(
        self, stage: str, items: Iterable[T], *, total: int | None = None, noun: str = "item"
    ) -> Iterator[T]:
        """Yield the items, show the progress in the stage, and stop at a cancel.

        The message reads "Compressing document 3/12"; `noun` is what an item is called.
        """
        if total is None and isinstance(items, Sized):
            total = len(items)
        verb = stage.replace("_", " ").capitalize()
        for number, item in enumerate(items):
            self.check_cancelled()
            of = f"/{total}" if total else ""
            fraction = number / total if total else 0.0
            self.report(f"{verb}: {noun} {number + 1}{of}", fraction, stage, number, total)
            yield item
        self.check_cancelled()
        self.report(verb, 1.0, stage, total, total)

    def report(
        self,
        message: str,
        fraction: float = 0.0,
        stage: str = "work",
        done: int | None = None,
        total: int | None = None,
    ) -> None:
        """Show a message and how far the stage is, 0 to 1. As often as wanted: it is cheap."""
        start, length = self.kind.share(stage) if self.kind else (0.0, 1.0)
        percent = 100 * (start + length * min(1.0, max(0.0, fraction)))
        # 100 is said by the ledger alone, when the job has succeeded.
        self.reporter.progress(min(percent, 99.9), stage, message, done, total)

    def check_cancelled(self) -> None:
        """Raise Cancelled if the job is asked to stop. Cheap: one byte of memory is read."""
        if self.reporter.stop_wanted:
            raise Cancelled

    def log(self, message: str, *, level: str = "info") -> None:
        """Add a line to the job's own log, which its owner can read."""
        self.reporter.line(level, message)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keep plain values for the next attempt's `last_checkpoint`; raises LeaseLost."""
        self.keep_checkpoint(state)

    def transaction(self) -> AbstractContextManager["Session"]:
        """Open a write transaction under the attempt's token; raises LeaseLost.

        For effects of an item that is finished before the job is: they are there exactly once.
        """
        return self.fenced()

    def publish(self, path: Path, name: str, media_type: str) -> None:
        """Leave a file for the owner to download, once the job has succeeded."""
        self.published.append(Published(path, name, media_type))

    def at_finish(self, effect: Effect) -> None:
        """Run the effect in the transaction that finishes the job, so that both are or neither."""
        self.effects.append(effect)
