"""The protocol of stages: whatever takes a pair and a start and returns a better transform."""

from typing import Protocol

from inrreg.core.image_pair import ImagePair
from inrreg.optimisation.outcome import Outcome
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.transforms import Transform

STOPPING_OUTCOMES = (Outcome.INTERRUPTED, Outcome.NON_FINITE)
"""Outcomes after which nothing further is run."""


class Stage(Protocol):
    """A step of a strategy.

    It starts from ``initial`` and gives the total map x -> initial(x + u(x)).
    """

    @property
    def name(self) -> str: ...

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """Improve ``initial`` (the identity if none) on ``pair``."""
        ...
