"""Global normalised cross-correlation: images whose intensities agree up to one linear map."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_not_negative
from inrreg.objective.features import Feature, intensities
from inrreg.objective.step import Step

_ROUNDING = 1e-12
"""Of the squared mean: a variance below that is the rounding of a constant image."""


@dataclass(frozen=True)
class NCC:
    """1 - weighted Pearson correlation over all sites, mean over channels.

    0 is a perfect match, 2 an inverted one. It is invariant to a gain above 0 and an offset.
    """

    weight: float = 1.0
    feature: Feature = intensities
    name: str = "ncc"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        return (
            1 - correlation(step.fixed(self.feature), step.warped(self.feature), step.weight).mean()
        )


def correlation(
    fixed: Float[Tensor, "b c *lattice"],
    warped: Float[Tensor, "b c *lattice"],
    weight: Float[Tensor, "b 1 *lattice"],
) -> Float[Tensor, " c"]:
    """Weighted Pearson correlation over batch and lattice, one value a channel.

    It is 0 where an image is constant.
    """
    axes = [0, *range(2, fixed.ndim)]
    total = weight.sum().clamp(min=1e-6)
    shape = [1, -1, *[1] * (fixed.ndim - 2)]
    mean_fixed, mean_warped = ((weight * values).sum(axes) / total for values in (fixed, warped))
    f, m = fixed - mean_fixed.reshape(shape), warped - mean_warped.reshape(shape)
    covariance = (weight * f * m).sum(axes) / total
    variances = ((weight * f * f).sum(axes) / total + _ROUNDING * mean_fixed**2) * (
        (weight * m * m).sum(axes) / total + _ROUNDING * mean_warped**2
    )
    return covariance / torch.sqrt(variances.clamp(min=1e-30))
