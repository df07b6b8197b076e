"""A plan of faults and of work, all of it drawn from a seed."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SECONDS = 4.0  # in which everything begins

# Of each line one at a time, so that no two faults bring back what the other has ended.
FAULTS: tuple[tuple[str, ...], ...] = (
    ("kill default", "freeze default", "terminate default", "terminate and kill default"),
    ("kill low", "freeze low", "terminate low"),
    ("kill a slot", "kill an attempt", "freeze a slot"),
    ("kill broker", "freeze broker", "flush broker", "fill broker"),
    ("lock database", "end database", "freeze database"),
    ("kill beat", "freeze beat", "add a beat"),
    ("kill web", "kill a web process"),
    ("fill disk",),
    ("double messages",),
)
WORK = {
    "nap": 6,
    "idle nap": 3,
    "urgent nap": 3,
    "walk": 4,
    "flaky": 3,
    "crash": 1,
    "batch": 3,
    "compress": 2,
    "cancel": 5,
    "force": 2,
    "retry": 5,
    "delete": 3,
}


@dataclass(frozen=True, order=True)
class Step:
    """What is done after `at` seconds, and for how long; `which` picks among what is there."""

    at: float
    do: str
    which: int
    lasts: float


@dataclass(frozen=True)
class Plan:
    """What a seed stands for."""

    seed: int
    faults: Sequence[Step]
    work: Sequence[Step]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}; again: scripts/test faults --seed {self.seed}"]
        for name, steps in (("fault", self.faults), ("work", self.work)):
            lines += [
                f"  {step.at:5.2f} s {name}: {step.do} (which {step.which}, {step.lasts:.2f} s)"
                for step in steps
            ]
        return "\n".join(lines)


def plan_of(seed: int) -> Plan:
    """Two to four faults, and twelve to thirty pieces of work."""
    dice = random.Random(seed)  # noqa: S311 - it has to be repeatable
    lines = dice.sample(FAULTS, dice.randint(2, 4))
    faults = sorted(_step(dice, dice.choice(line), longest=6.0) for line in lines)
    names = dice.choices(list(WORK), weights=list(WORK.values()), k=dice.randint(12, 30))
    # There has to be something that a cancel can be of.
    work = sorted([_step(dice, "nap", longest=0.5), *_steps(dice, names)])
    return Plan(seed, faults, work)


def _steps(dice: random.Random, names: Sequence[str]) -> Iterator[Step]:
    for name in names:
        yield _step(dice, name, longest=0.8)


def _step(dice: random.Random, name: str, longest: float) -> Step:
    at = round(dice.uniform(0, SECONDS), 2)
    return Step(at, name, dice.randrange(1000), round(dice.uniform(0, longest), 2))
