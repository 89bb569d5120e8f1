"""Piecewise smoothness: motion that slides (Vishnevskiy et al., IEEE TMI 2017)."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_above_zero, check_not_negative
from inrreg.objective.step import Step
from inrreg.ops.total_variation import total_variation


@dataclass(frozen=True)
class TotalVariation:
    """Mean over sites of sqrt(|Du|^2 + smoothing^2) - smoothing, isotropic over components and
    axes, mm per mm.

    A jump costs its height whatever its steepness, so organs may slide along each other where a
    quadratic penalty smears.
    """

    weight: float = 1.0
    smoothing: float = 0.05
    name: str = "total_variation"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")
        check_above_zero(self, "smoothing")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        return total_variation(step.jacobian, self.smoothing)
