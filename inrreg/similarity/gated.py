"""A squared difference that a mask may switch off at a cost.

With this loss a network learns the non-correspondence without supervision.

After NCR-Net (Andresen et al., IJCARS 2022), whose loss is like Mumford and Shah's: the image
distance outside the mask, the area of the mask, the length of its edge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.settings_checks import check_not_negative
from inrreg.objective.features import Feature, intensities
from inrreg.objective.step import Step

EDGE = 1e-3
"""Slopes of a mask below that, per mm, count as none: the length of the gradient has no derivative
at 0.
"""


@dataclass(frozen=True)
class GatedDistance:
    """Weighted mean over sites of

        (1 - m) d  +  ``price`` (m + ``perimeter_mm`` |grad m|)

    with d = (fixed - warped)^2, mean over channels, and m in 0 ... 1 the sigmoid of ``logit``; 1
    means "has no counterpart". Gradients reach the transform, as far as m is not 1, and whatever
    ``logit`` is made of: it is asked for one value a site, as ``step.weight`` has, of a network of
    ``step.fixed()`` and ``step.warped()`` or of a field at ``step.sites``.

    ``price`` is in squared units of the feature: a large region is called different where d is
    above it, so take three standard deviations of the noise, squared. An island of radius R in
    which d is k times the price is worth its edge from R = n ``perimeter_mm`` / (k - 1) on, n the
    number of axes. Before the images overlap everything differs: begin with a high price, or fit
    the motion alone first.

    Raises:
        InputError: on a step of loose points, which have no neighbours, or where ``logit`` gives
            another shape.
    """

    logit: Callable[[Step], Float[Tensor, "b 1 *lattice"]]
    price: float = 0.01
    perimeter_mm: float = 2.0
    weight: float = 1.0
    feature: Feature = intensities
    name: str = "gated"

    def __post_init__(self) -> None:
        check_not_negative(self, "price", "perimeter_mm", "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        distance = (
            (step.fixed(self.feature) - step.warped(self.feature)).square().mean(1, keepdim=True)
        )
        m = self.mask(step)
        cost = (1 - m) * distance + self.price * (
            m + self.perimeter_mm * gradient_magnitude(m, step.sites.spacing)
        )
        return (step.weight * cost).sum() / step.weight.sum().clamp(min=1e-6)

    def mask(self, step: Step) -> Float[Tensor, "b 1 *lattice"]:
        """m at the sites."""
        if min(step.sites.lattice) < 2:
            raise InputError(
                "the edge of a mask needs neighbouring sites: give the level a grid or patches as"
                " its sampler, not loose points"
            )
        logit = self.logit(step)
        if logit.shape != step.weight.shape:
            raise InputError(
                f"the mask of a gated distance needs one logit a site, {tuple(step.weight.shape)},"
                f" got {tuple(logit.shape)}"
            )
        return logit.sigmoid()


def gradient_magnitude(
    values: Float[Tensor, "b c *lattice"], spacing: Sequence[float]
) -> Float[Tensor, "b c *lattice"]:
    """|grad| per mm by forward differences, smooth at 0.

    At the last site of an axis the difference is 0.
    """
    squares = torch.full_like(values, EDGE**2)
    for axis, h in enumerate(spacing, start=2):
        rise = values.diff(dim=axis) / h
        squares = squares + torch.nn.functional.pad(
            rise.square(), [0, 0] * (values.ndim - 1 - axis) + [0, 1]
        )
    return squares.sqrt() - EDGE
