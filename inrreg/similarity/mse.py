"""Mean squared difference: the measure of two images of the same thing in the same units."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_not_negative
from inrreg.objective.features import Feature, intensities
from inrreg.objective.step import Step


@dataclass(frozen=True)
class MSE:
    """Weighted mean over sites and channels of (fixed - warped)^2.

    Its unit is the squared unit of the feature; 0 is a perfect match.
    """

    weight: float = 1.0
    feature: Feature = intensities
    name: str = "mse"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        squared = (
            (step.fixed(self.feature) - step.warped(self.feature)).square().mean(1, keepdim=True)
        )
        return (step.weight * squared).sum() / step.weight.sum().clamp(min=1e-6)
