"""Declaring a kind of job: everything about it stands in one place, at its function.

    @job("compression.compress_file", params=CompressFileParams, stages={"compress": 1})
    def compress_file(ctx: JobContext, *, file_id: int) -> dict[str, object]: ...

Calling the declared kind calls the function, so a fake context is its unit test.
"""

import inspect
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from marshmallow import Schema, fields

from backend.errors import Unavailable

if TYPE_CHECKING:
    from backend.jobs.context import JobContext

P = ParamSpec("P")
R = TypeVar("R")

NAME = re.compile(r"[a-z_]+\.[a-z_]+")


class Queue(StrEnum):
    """The queues, each with worker slots of its own."""

    HIGH = "high_priority"
    DEFAULT = "default"
    LOW = "low_priority"


PRIORITY: Mapping[Queue, int] = {Queue.HIGH: 10, Queue.DEFAULT: 5, Queue.LOW: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a failed attempt is followed by another: exponential backoff with full jitter.

    `attempts` counts the first one. `delay` is the first wait in seconds, doubled each time up
    to `max_delay`. Only errors of the types in `on` are tried again. (M. Brooker, "Exponential
    Backoff and Jitter": the upper half is drawn from, so that a wait is never near zero.)
    """

    attempts: int = 3
    delay: float = 10
    max_delay: float = 3600
    on: tuple[type[Exception], ...] = (Unavailable,)

    def wait_seconds(self, failed_attempts: int) -> float:
        """Return the seconds to wait after this many failed attempts."""
        doublings = min(failed_attempts - 1, 64)  # more would overflow, and change nothing
        longest = min(self.max_delay, self.delay * 2.0**doublings)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


class DeclarationError(TypeError):
    """A kind's declaration contradicts its function."""


class FileId(fields.Integer):
    """A parameter that names a stored file: the file is kept for as long as the job may read it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JobKind(Generic[P, R]):
    """A declared sort of job. The name is stored with each job, so it is permanent."""

    name: str
    function: Callable[Concatenate["JobContext", P], R]
    params: type[Schema]
    result: type[Schema] | None = None
    title: str = ""
    queue: Queue = Queue.DEFAULT
    priority: int = PRIORITY[Queue.DEFAULT]
    retry: Retry = field(default_factory=Retry)
    soft_limit: timedelta = timedelta(minutes=30)
    hard_limit: timedelta = timedelta(minutes=35)
    stages: Mapping[str, float] = field(default_factory=lambda: {"work": 1.0})

    @property
    def params_schema(self) -> Schema:
        """The schema of the parameters."""
        return _made(self.params)

    @property
    def result_schema(self) -> Schema | None:
        """The schema of the result, if it has one."""
        return _made(self.result) if self.result else None

    def __call__(self, ctx: "JobContext", *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the declared function."""
        return self.function(ctx, *args, **kwargs)

    def inputs(self, params: Mapping[str, Any]) -> list[int]:
        """Return the ids of the stored files that a job with these parameters reads."""
        declared = self.params_schema.fields
        return [
            value
            for name, value in params.items()
            if isinstance(declared.get(name), FileId) and value is not None
        ]

    def share(self, stage: str) -> tuple[float, float]:
        """Return where a stage starts and how long it is, as fractions of the progress bar."""
        if stage not in self.stages:
            raise DeclarationError(
                f"{self.name} has no stage {stage!r}; it declares {', '.join(self.stages)}"
            )
        total = sum(self.stages.values())
        before = 0.0
        for name, weight in self.stages.items():
            if name == stage:
                break
            before += weight
        return before / total, self.stages[stage] / total


@cache
def _made(schema: type[Schema]) -> Schema:
    # Making a schema costs ten times what using it does, and it may be used by all threads.
    return schema()


def job(
    name: str,
    *,
    params: type[Schema],
    result: type[Schema] | None = None,
    title: str = "",
    queue: Queue = Queue.DEFAULT,
    priority: int | None = None,
    retry: Retry | None = None,
    soft_limit: timedelta = timedelta(minutes=30),
    hard_limit: timedelta | None = None,
    stages: Mapping[str, float] | None = None,
) -> Callable[[Callable[Concatenate["JobContext", P], R]], JobKind[P, R]]:
    """Declare a function as a kind of job.

    The function takes the context and then keyword-only arguments, one per field of `params`;
    anything else raises DeclarationError at import. `soft_limit` interrupts the function,
    `hard_limit` (a fifth later unless given) kills its process. `stages` are the shares of the
    progress bar, in order.
    """

    def declare(function: Callable[Concatenate["JobContext", P], R]) -> JobKind[P, R]:
        _check(name, function, params)
        return JobKind(
            name=name,
            function=function,
            params=params,
            result=result,
            title=title or name.partition(".")[2].replace("_", " ").capitalize(),
            queue=queue,
            priority=PRIORITY[queue] if priority is None else priority,
            retry=retry or Retry(),
            soft_limit=soft_limit,
            hard_limit=hard_limit or soft_limit * 1.2,
            stages=dict(stages or {"work": 1.0}),
        )

    return declare


def _check(name: str, function: Callable[..., Any], params: type[Schema]) -> None:
    if not NAME.fullmatch(name):
        raise DeclarationError(f"{name!r} is not a kind's name; it would be 'domain.verb_noun'")
    rest = list(inspect.signature(function).parameters.values())[1:]  # without the context
    stray = [p.name for p in rest if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    if stray:
        raise DeclarationError(f"{name}: {', '.join(stray)} must be keyword-only, after a *")
    declared, taken = set(params().fields), {p.name for p in rest}
    if declared != taken:
        raise DeclarationError(
            f"{name}: {params.__name__} has {sorted(declared)}, the function takes {sorted(taken)}"
        )


class Kinds(Mapping[str, JobKind[Any, Any]]):
    """The kinds that an application knows, by name; a name declared twice is refused."""

    def __init__(self, kinds: tuple[JobKind[Any, Any], ...]) -> None:
        self._by_name = {kind.name: kind for kind in kinds}
        if len(self._by_name) < len(kinds):
            names = [kind.name for kind in kinds]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise DeclarationError(f"declared twice: {', '.join(twice)}")

    def __getitem__(self, name: str) -> JobKind[Any, Any]:
        return self._by_name[name]

    def __iter__(self) -> Any:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)
