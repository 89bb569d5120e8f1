"""The evidence that a voxel has no counterpart: log p(residual | no counterpart) - log p(residual |
counterpart), in nats.

The residual of tissue that has a counterpart is noise, whose width is measured on the pair itself.
The residual of tissue that has none is uniform over the range of values. So the price of calling a
voxel different follows from the statistics of the residual and is not tuned. Evidence from several
contrasts is added.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.metamorphosis.aligned import Aligned
from inrreg.objective.features import GradientMagnitude
from inrreg.ops.separable import apply_along_axes, smoothing

MAD_OF_UNIT_NORMAL = 0.6745
"""Median of the absolute value of a standard normal variable."""
BINS = 16
STRONGEST = 6.0
"""Bound on the evidence of a voxel, nats: noise has longer tails than a normal distribution."""
SHARE_OF_ALL = 0.05
"""How much the whole image counts in every window of a regression: where a window holds nothing it
is all there is.
"""


class Evidence(Protocol):
    """One reason to believe that a voxel has no counterpart."""

    def __call__(
        self, view: Aligned, counterpart: Float[Tensor, "1 *shape"]
    ) -> Float[Tensor, "1 *shape"]:
        """Log likelihood ratio at every voxel, nats, where ``counterpart`` in 0 ...

        1 is the present belief that a voxel has one: only those tell what noise is.
        """
        ...


@dataclass(frozen=True)
class IntensityEvidence:
    """From what the warped image cannot explain of the fixed one, after ``residual``; summed over
    channels.

    The noise of a residual is normal, its variance s^2 + t^2 g^2, with g the gradient that both
    images share there (the smaller one): t mm of misalignment are no change. Both are measured.
    With a ``window_mm`` of infinity intensities are standardised as a whole, as for a mean squared
    difference; with one of tens of mm, locally, as a local correlation does.
    """

    window_mm: float = 40.0
    least_noise: float = 0.01

    def __call__(
        self, view: Aligned, counterpart: Float[Tensor, "1 *shape"]
    ) -> Float[Tensor, "1 *shape"]:
        """See ``Evidence``."""
        weight = view.weight.data * counterpart
        total = torch.zeros_like(weight)
        gradients = torch.minimum(
            *(GradientMagnitude()(image).data for image in (view.fixed, view.warped))
        )
        for channel in range(view.fixed.channels):
            fixed, warped = view.fixed.data[channel, None], view.warped.data[channel, None]
            difference = residual(fixed, warped, weight, view.fixed.grid, self.window_mm)
            shared = gradients[channel, None]
            still, per_mm = noise(difference[weight > 0.5], shared[weight > 0.5])
            sigma = (max(still, self.least_noise) ** 2 + (per_mm * shared).square()).sqrt()
            total += log_ratio(difference, sigma, math.sqrt(2 * math.pi)).clamp(
                -STRONGEST, STRONGEST
            )
        return total


@dataclass(frozen=True)
class InconsistencyEvidence:
    """From the disagreement of the forward and the backward map, |backward(forward(x)) - x| in mm
    (Mok and Chung, MICCAI 2022).

    Agreement is no evidence of a counterpart, because two smooth maps agree in a hole too: the
    evidence is never negative. Beside a hole the maps are extrapolated and may disagree: it never
    exceeds ``strongest``. Where there is no counterpart, disagreements are uniform over 0 ...
    ``range_mm``.
    """

    range_mm: float = 10.0
    least_noise_mm: float = 0.7
    smoothing_mm: float = 4.0
    strongest: float = 2.0

    def __call__(
        self, view: Aligned, counterpart: Float[Tensor, "1 *shape"]
    ) -> Float[Tensor, "1 *shape"]:
        """See ``Evidence``; 0 where there is no backward map."""
        if view.backward is None:
            return torch.zeros_like(counterpart)
        disagreement_mm = apply_along_axes(
            view.inconsistency, smoothing(view.fixed.grid, self.smoothing_mm)
        )
        inliers = disagreement_mm[view.weight.data * counterpart > 0.5]
        sigma = (
            max(float(inliers.median()) / MAD_OF_UNIT_NORMAL, self.least_noise_mm)
            if len(inliers)
            else self.least_noise_mm
        )
        return log_ratio(
            disagreement_mm / self.range_mm,
            disagreement_mm.new_tensor(sigma / self.range_mm),
            math.sqrt(math.pi / 2),
        ).clamp(0, self.strongest)


def log_ratio(value: Tensor, sigma: Tensor, normalisation: float) -> Tensor:
    """log of an even density over a range of 1 over a normal one of width ``sigma``, whose integral
    is ``normalisation`` times that.
    """
    return 0.5 * (value / sigma).square() + torch.log(normalisation * sigma)


def residual(
    fixed: Float[Tensor, "1 *shape"],
    warped: Float[Tensor, "1 *shape"],
    weight: Float[Tensor, "1 *shape"],
    grid: Grid,
    window_mm: float,
) -> Float[Tensor, "1 *shape"]:
    """fixed - (a warped + b) with gain a >= 0 and offset b of the weighted regression in the
    Gaussian window (full width at half height) around each voxel: bias fields and contrast are no
    change.

    It is what local correlation leaves unexplained; a window of infinity has one a and b for the
    whole image.
    """
    moments = torch.cat(
        [weight, weight * fixed, weight * warped, weight * warped.square(), weight * warped * fixed]
    )
    everywhere = moments.flatten(1).mean(1).reshape(-1, *[1] * grid.ndim)
    if math.isfinite(window_mm):
        moments = (
            apply_along_axes(moments, smoothing(grid, window_mm / 2.355))
            + SHARE_OF_ALL * everywhere
        )
    else:
        moments = everywhere
    total, *rest = moments.split(1)
    mean_fixed, mean_warped, square, product = (moment / total.clamp(min=1e-12) for moment in rest)
    gain = (
        (product - mean_warped * mean_fixed) / (square - mean_warped.square()).clamp(min=1e-6)
    ).clamp(min=0)
    return fixed - mean_fixed - gain * (warped - mean_warped)


def noise(
    difference: Float[Tensor, " n"], gradient_magnitude: Float[Tensor, " n"]
) -> tuple[float, float]:
    """s and t of a residual of variance s^2 + t^2 steepness^2, from the medians of its absolute
    value in bins of equal numbers: outliers hardly count.
    """
    from scipy.optimize import nnls

    if len(difference) < 8 * BINS:
        return 0.0, 0.0
    gradient_magnitude, order = gradient_magnitude.sort()
    spreads = [
        (float(part.abs().median()) / MAD_OF_UNIT_NORMAL) ** 2
        for part in difference[order].tensor_split(BINS)
    ]
    slopes = [float(part.square().mean()) for part in gradient_magnitude.tensor_split(BINS)]
    # errors in proportion: the few steep bins do not rule the many flat ones
    scale = 1 / np.maximum(spreads, 1e-12)
    variances, _ = nnls(np.stack([scale, scale * np.array(slopes)], 1), scale * np.array(spreads))
    return float(np.sqrt(variances[0])), float(np.sqrt(variances[1]))
