"""Local normalised cross-correlation: correlation inside a small window around every site.

Windows are boxes of ``window_mm``. Samples outside the masks or the images take no part in any
window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.settings_checks import check_above_zero, check_not_negative
from inrreg.objective.features import Feature, intensities
from inrreg.objective.step import Step
from inrreg.ops.channel_sums import channel_sums
from inrreg.ops.separable import box_sum
from inrreg.similarity.local import correlation_sum, fixed_side

LEAST_FLATNESS = 1e-3


@dataclass(frozen=True)
class LNCC:
    """1 - weighted mean of the signed local correlation; 0 is a perfect match.

    Invariant to a gain above 0 and an offset that vary slowly over the window.

    A window whose standard deviation is below ``flatness`` times that of the whole image counts as
    flat: its correlation is drawn to zero, so noise in air does not vote (and a perfect match of
    images with flat parts stays above 0). A ``flatness`` below 0.001, the precision of single
    numbers, counts as that.

    Raises:
        InputError: on a step whose lattices are smaller than the window.
    """

    window_mm: float = 9.0
    weight: float = 1.0
    flatness: float = 0.1
    feature: Feature = intensities
    name: str = "lncc"

    def __post_init__(self) -> None:
        check_above_zero(self, "window_mm")
        check_not_negative(self, "weight", "flatness")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        fixed = step.fixed(self.feature)
        weight = step.weight
        radii = self.radii(step.sites.spacing, step.sites.lattice)
        known = step.samples.cached(
            (self, "fixed"), lambda: fixed_side(fixed, step.samples.weight, radii)
        )
        return (
            1
            - correlation_sum(step.warped(self.feature), weight, known, self._floors(step))
            / weight.sum().clamp(min=1e-6)
            / fixed.shape[1]
        )

    def map(self, step: Step) -> Float[Tensor, "b c *lattice"]:
        """The local correlation in [-1, 1] at every site."""
        fixed = step.fixed(self.feature)
        warped = step.warped(self.feature)
        weight = step.weight
        radii = self.radii(step.sites.spacing, step.sites.lattice)
        return local_correlation(
            fixed, warped, weight, radii, local_moments(fixed, weight, radii), self._floors(step)
        )

    def _floors(self, step: Step) -> tuple[Tensor, Tensor]:
        """What is added to the variances of the fixed and of the warped image."""
        floor = max(self.flatness, LEAST_FLATNESS) ** 2
        fixed_spread = step.samples.cached(
            (self, "spread"), lambda: spread(step.fixed(self.feature), step.samples.weight)
        )
        return floor * fixed_spread, floor * spread(step.warped(self.feature).detach(), step.weight)

    def radii(self, spacing: Sequence[float], lattice: Sequence[int]) -> tuple[int, ...]:
        """Half the window in sites along each axis, at least one."""
        radii = tuple(max(1, round((self.window_mm / h - 1) / 2)) for h in spacing)
        if any(n < 2 * r + 1 for n, r in zip(lattice, radii, strict=True)):
            size = tuple(2 * r + 1 for r in radii)
            raise InputError(
                f"LNCC needs lattices of at least its window, {size} sites at this spacing, got"
                f" {tuple(lattice)}: sample the whole grid or larger patches, or choose a smaller"
                " window_mm"
            )
        return radii


Moments = tuple[Tensor, Tensor, Tensor]


def local_moments(
    values: Float[Tensor, "b c *lattice"],
    weight: Float[Tensor, "b 1 *lattice"],
    radii: Sequence[int],
) -> Moments:
    """Inverse of the weight in the window, weighted mean and variance of ``values`` in it."""
    inverse = 1 / box_sum(weight, radii).clamp(min=1e-3)
    mean = box_sum(weight * values, radii) * inverse
    variance = (box_sum(weight * values.square(), radii) * inverse - mean.square()).clamp(min=0)
    return inverse, mean, variance


def local_correlation(
    fixed: Float[Tensor, "b c *lattice"],
    warped: Float[Tensor, "b c *lattice"],
    weight: Float[Tensor, "b 1 *lattice"],
    radii: Sequence[int],
    moments: Moments,
    floors: tuple[Tensor, Tensor],
) -> Float[Tensor, "b c *lattice"]:
    """Weighted correlation of both in the window around every site; ``floors`` are added to the two
    variances.
    """
    inverse, mean_fixed, variance_fixed = moments
    weighted = weight * warped
    mean = box_sum(weighted, radii) * inverse
    variance = (box_sum(weighted * warped, radii) * inverse - mean.square()).clamp(min=0)
    covariance = box_sum(weighted * fixed, radii) * inverse - mean * mean_fixed
    return covariance * torch.rsqrt((variance_fixed + floors[0]) * (variance + floors[1]))


@torch.no_grad()
def spread(
    values: Float[Tensor, "b c *lattice"], weight: Float[Tensor, "b 1 *lattice"]
) -> Float[Tensor, "1 c *ones"]:
    """Weighted variance of the values of each channel, ``[1, c, 1, ...]``. No gradient."""
    total, first, second = channel_sums(values, weight).unbind(1)
    mean = first / total.clamp(min=1e-6)
    return (
        (second / total.clamp(min=1e-6) - mean.square())
        .clamp(min=1e-12)
        .to(values.dtype)
        .reshape(1, -1, *[1] * (values.ndim - 2))
    )
