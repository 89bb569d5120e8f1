"""The protocol of stages: whatever takes a pair and a start and returns a better transform."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from inrreg.optimisation.outcome import Outcome
from inrreg.pair import Change, Correspondences, Pair
from inrreg.transforms import Composite, Transform


@dataclass(frozen=True)
class Record:
    """One iteration of one stage: the cost, and each term of it times its weight."""

    stage: str
    level_mm: float
    iteration: int
    iterations: int
    cost: float
    terms: dict[str, float]


Progress = Callable[[Record], None]

ENDING = (Outcome.INTERRUPTED, Outcome.NON_FINITE)
"""Outcomes after which nothing further is run."""


@dataclass(eq=False)
class StageResult:
    """What a stage found: the whole map fixed -> moving (the start included) and how it got there; matched points where it went by them, and what motion does not explain where it looked for that."""

    name: str
    transform: Transform
    outcome: Outcome
    seconds: float
    history: list[Record] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    correspondences: Correspondences | None = None
    change: Change | None = None


class Stage(Protocol):
    """A step of a strategy. It starts from ``initial`` and gives the total map x -> initial(x + u(x))."""

    @property
    def name(self) -> str: ...

    def run(self, pair: Pair, initial: Transform | None = None, *, seed: int = 0, progress: Progress | None = None) -> StageResult:
        """Improve ``initial`` (the identity if none) on ``pair``."""
        ...


def composed(residual: Transform, initial: Transform | None) -> Transform:
    """x -> initial(residual(x)): stages are composed, never added."""
    return residual if initial is None else Composite([residual, initial])


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start
