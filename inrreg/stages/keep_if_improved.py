"""A stage that must earn its place: kept only where it makes the images clearly more alike."""

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

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeepIfImproved:
    """Runs ``stage`` and keeps what it found only if its first similarity fell by ``least_gain`` of
    its value, at the stage's finest level.

    A rigid or affine fit follows whatever fills most of the image; where organs move inside a still
    body that is worse than none.
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
        """The result of the stage, or ``initial`` again; the notes say which, and both costs."""
        result = self.stage.run(pair, initial, seed=seed, progress=progress)
        level = self.stage.level(pair, self.stage.scales[-1].spacing_mm)
        samples = Samples(level, WholeGrid().draw(level.fixed_mask, torch.Generator()))
        start = identity(pair.fixed.grid.ndim).requires_grad_(False) if initial is None else initial
        similarity = self.stage.similarities[0]
        with torch.no_grad():
            before, after = (
                float(similarity(Step(samples, transform.to(pair.fixed.device), None)))
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
            "kept": kept,
            f"{similarity.name}_before": before,
            f"{similarity.name}_after": after,
        }
        return replace(result, transform=result.transform if kept else start, notes=notes)
