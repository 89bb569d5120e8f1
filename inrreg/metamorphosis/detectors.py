"""Cheap detectors of what has no counterpart, to compare with: three rules of a line or two, none
of which learns anything or asks the neighbours for more than a blur.

Each gives every voxel a score of 0 or more and has a threshold for it; the mask is ``soft``, 0.5
where the score meets the threshold. Thresholds that follow from the pair are robust, the median of
the score and so many spreads: a lesion of a tenth of what is seen raises them by a sixth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis.aligned import Aligned, Detector, with_found_mask
from inrreg.metamorphosis.evidence import MAD_OF_UNIT_NORMAL, residual
from inrreg.objective.features import GradientMagnitude
from inrreg.ops.separable import apply_along_axes, box_sum, smoothing

FOLDED = 1e-5
"""Determinants below that count as that: what is folded has no logarithm."""
STEEP = 0.9
"""Share of what is seen whose gradient counts as low (Perona and Malik, IEEE PAMI 1990)."""
SAMPLE = 1 << 20
"""Voxels that are enough for a quantile."""


@dataclass(frozen=True)
class LiWyatt:
    """What differs in intensity where the fixed image is flat: at an edge, differences are
    misalignment (Li and Wyatt's idea, a baseline of Czolbe et al., NeurIPS 2021).

    The score is |``residual``| / (1 + (g / K)^2), in units of the fixed image: g is the gradient of
    the fixed image blurred by ``smoothing_mm``, K its 90th percentile. Czolbe and others compare
    intensities as they are, squared, with a weight that falls linearly with g. Where there are
    several channels, the one that says most counts.
    """

    window_mm: float = 40.0
    smoothing_mm: float = 2.0
    deviations: float = 4.0
    least: float = 0.03

    @torch.no_grad()
    def __call__(self, view: Aligned) -> Image:
        """See ``Detector``."""
        weight, grid = view.weight.data, view.fixed.grid
        flat = self._flatness(view)
        masks = []
        for fixed, warped, low_gradient in zip(
            view.fixed.data.split(1), view.warped.data.split(1), flat.split(1), strict=True
        ):
            score = residual(fixed, warped, weight, grid, self.window_mm).abs() * low_gradient
            masks.append(soft(score, robust_threshold(score, weight, self.deviations, self.least)))
        return _mask(torch.cat(masks).amax(0, keepdim=True), view)

    def _flatness(self, view: Aligned) -> Float[Tensor, "c *shape"]:
        """1 where the fixed image has no gradient, 1/2 where it is K."""
        blurred = view.fixed.with_data(
            apply_along_axes(view.fixed.data, smoothing(view.fixed.grid, self.smoothing_mm))
        )
        gradients = GradientMagnitude()(blurred).data
        steep = [
            _quantile(gradient[view.weight.data > 0], STEEP) for gradient in gradients.split(1)
        ]
        return torch.cat(
            [
                1 / (1 + (gradient / k.clamp(min=1e-12)).square())
                for gradient, k in zip(gradients.split(1), steep, strict=True)
            ]
        )


@dataclass(frozen=True)
class JacobianAnomaly:
    """Where the map swells or shrinks more than elsewhere: what was forced onto something else was
    stretched for it. The score is (log det J)^2 (a baseline of Czolbe et al., NeurIPS 2021).

    The threshold is that of |log det J|, squared; at a ``least`` of 0.1, volumes that differ by a
    tenth from the usual are no anomaly on any pair.
    """

    deviations: float = 4.0
    least: float = 0.1

    @torch.no_grad()
    def __call__(self, view: Aligned) -> Image:
        """See ``Detector``."""
        score = view.determinant.clamp(min=FOLDED).log().abs()
        return _mask(
            soft(score, robust_threshold(score, view.weight.data, self.deviations, self.least)),
            view,
        )


@dataclass(frozen=True)
class ForwardBackward:
    """DIRAC's rule (Mok and Chung, MICCAI 2022): where the disagreement of the forward and the
    backward map, smoothed by two box filters, exceeds its mean over the foreground by
    ``margin_mm``.

    The original adds 0.015 of half the field of view, 1.8 mm along the 240 mm of its images, and
    its filters are 5 voxels wide, of 1.5 mm. Here both are in mm, a window has three voxels or
    more, and what lies outside ``view.weight`` takes no part in it. The mean is that before
    smoothing, as there.

    Raises:
        InputError: when called on a view without a backward map.
    """

    margin_mm: float = 1.8
    window_mm: float = 7.5

    @torch.no_grad()
    def __call__(self, view: Aligned) -> Image:
        """See ``Detector``."""
        if view.backward is None:
            raise InputError(
                "the forward-backward rule compares the forward with the backward map, and this"
                " view has none: give `align` the map from moving to fixed, fitted on the swapped"
                " pair"
            )
        weight, disagreement_mm = view.weight.data, view.inconsistency
        radii = [max(1, round((self.window_mm / h - 1) / 2)) for h in view.fixed.grid.spacing]
        smoothed = _box_mean(_box_mean(disagreement_mm, weight, radii), weight, radii)
        mean = (weight * disagreement_mm).sum() / weight.sum().clamp(min=1e-6)
        return _mask(soft(smoothed, mean + self.margin_mm), view)


@dataclass(frozen=True)
class DetectedMask:
    """m as a detector gives it, in place of ``LearnedMask``: ``NonCorrespondence(registration,
    mask=DetectedMask(ForwardBackward()))``. What the lesion masks of the pair say stays said.
    """

    detector: Detector

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        """See ``MaskRule``: before the first look what the lesion masks say, then what was
        found.
        """
        return with_found_mask(pair, mask)

    def find(
        self, view: Aligned, counterpart: Float[Tensor, "1 *shape"], generator: torch.Generator
    ) -> Float[Tensor, "1 *shape"]:
        """See ``MaskRule``; a detector looks afresh, whatever was believed so far."""
        found = self.detector(view).data
        return (
            found
            if view.lesion is None
            else torch.maximum(found, view.lesion * (view.weight.data > 0))
        )


def soft(score: Float[Tensor, "1 *shape"], threshold: Tensor) -> Float[Tensor, "1 *shape"]:
    """s^2 / (s^2 + t^2): 0 where the score is 0, 0.5 at the threshold, towards 1 beyond (Geman and
    McClure); it grows with the score and never saturates, so no order is lost.
    """
    return 1 / (1 + (threshold.clamp(min=1e-12) / score).square())


def robust_threshold(
    score: Float[Tensor, "1 *shape"],
    weight: Float[Tensor, "1 *shape"],
    deviations: float,
    least: float,
) -> Float[Tensor, ""]:
    """Median of a ``score`` of 0 or more plus ``deviations`` times its spread, and plus ``least``
    at least, over all voxels of some weight.

    The spread is the median distance from the median, over that of a standard normal variable.
    Where the score is the absolute value of a normal variable, 4 of them make 3 of its standard
    deviations.
    """
    values = score[weight > 0]
    median = values.median()
    return median + ((values - median).abs().median() / MAD_OF_UNIT_NORMAL * deviations).clamp(
        min=least
    )


def _quantile(values: Float[Tensor, " n"], share: float) -> Float[Tensor, ""]:
    """``torch.quantile``, which refuses more than some million values, of one in so many; 0 of
    none.
    """
    return (
        values[:: max(1, len(values) // SAMPLE)].quantile(share)
        if len(values)
        else values.new_zeros(())
    )


def _box_mean(
    values: Float[Tensor, "1 *shape"], weight: Float[Tensor, "1 *shape"], radii: Sequence[int]
) -> Float[Tensor, "1 *shape"]:
    """Weighted mean in the box around every voxel."""
    total, everything = box_sum(torch.stack([weight * values, weight]), radii)
    return total / everything.clamp(min=1e-6)


def _mask(values: Float[Tensor, "1 *shape"], view: Aligned) -> Image:
    """``values`` where something is seen, 0 elsewhere."""
    return Image(
        torch.where(view.weight.data > 0, values, 0.0), view.fixed.grid, "non-correspondence"
    )
