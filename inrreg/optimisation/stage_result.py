"""What a stage of a registration returns, and what it reports at each iteration."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inrreg.core.image_pair import Change, Correspondences
from inrreg.optimisation.outcome import Outcome
from inrreg.transforms.base import Transform


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


@dataclass(eq=False)
class StageResult:
    """The total map fixed -> moving that a stage returns, its initial transform included, and how
    it was found.

    ``kept`` is False where the stage returns its initial transform instead of what it fitted.
    ``correspondences`` are set by a stage that matches points, ``change`` by one that estimates
    what motion does not explain. ``notes`` are for reports; no program reads them.
    """

    name: str
    transform: Transform
    outcome: Outcome
    seconds: float
    history: list[Record] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    correspondences: Correspondences | None = None
    change: Change | None = None
    kept: bool = True
