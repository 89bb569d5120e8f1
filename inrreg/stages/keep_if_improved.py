"""A stage whose result is used only where it makes the images clearly more similar."""

import logging
from dataclasses import dataclass, replace

import torch

from inrreg.core.image_pair import ImagePair
from inrreg.core.settings_checks import check_fraction
from inrreg.objective.samplers import WholeGrid
from inrreg.objective.step import Samples, Step
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.stages.gradient_registration import Registration
from inrreg.transforms import Transform, identity
from inrreg.transforms.composite import frozen_copy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeepIfImproved:
    """Runs ``stage`` and returns its transform only if its first similarity fell by at least
    ``least_gain`` of its value, at the stage's finest level; otherwise the initial transform.

    A rigid or affine fit follows the largest part of the image. Where organs move inside a body
    that does not move, that is worse than no fit.
    """

    stage: Registration
    least_gain: float = 0.1

    def __post_init__(self) -> None:
        check_fraction(self, "least_gain")

    @property
    def name(self) -> str:
        return self.stage.name

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """The result of the stage, or ``initial`` again: ``kept`` tells which of them it is. The
        notes hold the similarity before and after.
        """
        result = self.stage.run(pair, initial, seed=seed, progress=progress)
        level = self.stage.level(pair, self.stage.scales[-1].spacing_mm)
        samples = Samples(level, WholeGrid().draw(level.fixed_mask, torch.Generator()))
        start = frozen_copy(initial or identity(pair.fixed.grid.ndim), pair.fixed.device)
        similarity = self.stage.similarities[0]
        with torch.no_grad():
            before, after = (
                float(similarity(Step(samples, transform, None)))
                for transform in (start, result.transform)
            )
        kept = after <= (1 - self.least_gain) * before
        log.info(
            "%s: %s %.4f -> %.4f, %s",
            self.name,
            similarity.name,
            before,
            after,
            "kept" if kept else f"not kept: it must fall by {100 * self.least_gain:.0f} %",
        )
        notes = {
            **result.notes,
            f"{similarity.name}_before": before,
            f"{similarity.name}_after": after,
        }
        return replace(
            result, transform=result.transform if kept else start, notes=notes, kept=kept
        )
