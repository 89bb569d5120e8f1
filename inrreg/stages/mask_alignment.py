"""Aligning two masks as shapes: a start that needs no intensities, and is right where an organ
changes its size.
"""

import logging
from dataclasses import dataclass, field, replace

from inrreg.core.image_pair import ImagePair
from inrreg.core.settings_checks import check_above_zero
from inrreg.core.threads import prefer_kernels
from inrreg.ops.masks import as_weight, signed_distance
from inrreg.optimisation import Adam, Outcome
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import LinearModel, Transform, identity
from inrreg.transforms.composite import frozen_copy

log = logging.getLogger(__name__)


def _affine() -> Registration:
    return Registration(
        LinearModel("affine"), similarities=(MSE(),), optimiser=Adam(1.0), scales=(Scale(8, 100),)
    )


@dataclass(frozen=True)
class MaskAlignment:
    """Runs ``registration`` on the signed distance maps of both masks, cut off at ``clip_mm`` from
    their edges and scaled to -1 ... 1.

    Where a mask is missing it does nothing, and says so: breathing lungs grow by a third, which
    only their masks show cheaply.
    """

    registration: Registration = field(default_factory=_affine)
    clip_mm: float = 40.0
    name: str = "masks"

    def __post_init__(self) -> None:
        check_above_zero(self, "clip_mm")

    @prefer_kernels()
    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """The transform that carries the fixed mask onto the moving one, from ``initial``."""
        if pair.fixed_mask is None or pair.moving_mask is None:
            log.info("%s: skipped, for it needs a fixed and a moving mask", self.name)
            return StageResult(
                self.name,
                frozen_copy(initial or identity(pair.fixed.grid.ndim), pair.fixed.device),
                Outcome.CONVERGED,
                0.0,
                [],
                {"skipped": "a mask is missing"},
            )
        fixed, moving = (
            signed_distance(as_weight(mask, mask.grid, mask.device), self.clip_mm)
            for mask in (pair.fixed_mask, pair.moving_mask)
        )
        shapes = ImagePair(fixed, moving)
        result = replace(self.registration, name=self.name).run(
            shapes, initial, seed=seed, progress=progress
        )
        return replace(result, name=self.name)
