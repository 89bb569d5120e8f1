"""Distance of guiding landmarks.

These point pairs drive the fit. They are never the pairs that evaluate it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.image import Points
from inrreg.core.settings_checks import check_above_zero, check_not_negative
from inrreg.objective.step import Step


@dataclass(frozen=True, eq=False)
class LandmarkDistance:
    """Mean of rho(|T(p) - q|) in mm over the pairs.

    rho is the pseudo-Huber loss, linear beyond ``robust_mm``, so a wrong pair has a bounded force.

    ``confidence`` in 0 ... 1, where given, makes it a weighted mean: ``LandmarkDistance(c.fixed,
    c.moving, confidence=c.confidence)`` takes the correspondences ``c`` of a graph registration.
    """

    fixed: Points
    moving: Points
    weight: float = 0.05
    robust_mm: float = 2.0
    confidence: Float[Tensor, " n"] | None = None
    name: str = "landmarks"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")
        check_above_zero(self, "robust_mm")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        points = self.fixed.coords.to(step.sites.points)
        moved = step.transform(points)
        mapped = moved if step.initial is None else step.initial(moved)
        squared = (mapped - self.moving.coords.to(mapped)).square().sum(-1)
        distances = self.robust_mm * (torch.sqrt(squared + self.robust_mm**2) - self.robust_mm)
        if self.confidence is None:
            return distances.mean()
        confidence = self.confidence.to(distances)
        return (confidence * distances).sum() / confidence.sum().clamp(min=1e-12)
