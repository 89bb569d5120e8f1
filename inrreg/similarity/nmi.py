"""Normalised mutual information, for images of different modality.

Reference: Studholme et al., Pattern Recognition 1999.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_count, check_not_negative
from inrreg.objective.features import Feature, intensities
from inrreg.objective.step import Step


@dataclass(frozen=True)
class NMI:
    """2 - (H(F) + H(W)) / H(F, W); 1 means independence.

    The joint histogram has ``bins`` cubic B-spline Parzen windows over 0 ... 1.

    A perfect match has the least value but not 0: each value spreads over four bins, so even then
    one image leaves the other in doubt by the entropy of that window (0.52 for values that fill 32
    bins evenly). Inverting an image changes nothing. The feature must be scaled to 0 ... 1 (as
    presets do); values beyond are clipped. Of several channels the first counts.
    """

    bins: int = 32
    weight: float = 1.0
    feature: Feature = intensities
    name: str = "nmi"

    def __post_init__(self) -> None:
        check_count(self, "bins", least=2)
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        fixed = step.samples.cached(
            (self, "fixed"), lambda: parzen(step.fixed(self.feature)[:, 0].reshape(-1), self.bins)
        )
        joint = joint_density(
            fixed * step.weight.reshape(-1, 1),
            parzen(step.warped(self.feature)[:, 0].reshape(-1), self.bins),
        )
        entropies = entropy(joint.sum(0)) + entropy(joint.sum(1))
        return 2 - entropies / entropy(joint).clamp(min=1e-6)


def joint_density(
    fixed: Float[Tensor, "n bins"], warped: Float[Tensor, "n bins"]
) -> Float[Tensor, "bins bins"]:
    """Joint density of two samples from their memberships; sums to one."""
    joint = fixed.T @ warped
    return joint / joint.sum().clamp(min=1e-12)


def parzen(values: Float[Tensor, " n"], bins: int) -> Float[Tensor, "n bins"]:
    """Cubic B-spline membership of each value in each bin; the outer bins are margin, so the window
    never leaves the array.
    """
    centre = 1 + values.clamp(0, 1) * (bins - 3)
    distance = (
        centre[:, None] - torch.arange(bins, dtype=values.dtype, device=values.device)
    ).abs()
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def entropy(density: Tensor) -> Tensor:
    """- sum p log p."""
    return -torch.special.xlogy(density, density.clamp(min=1e-12)).sum()
