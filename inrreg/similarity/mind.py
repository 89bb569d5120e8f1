"""Modality independent neighbourhood descriptors: what a voxel's surroundings look like to each
other, whatever their intensities.

Both are features (``Image -> Image`` of several channels), so ``MSE(feature=MindSSC())`` is the
similarity, and the discrete registration compares the same channels. Offsets and patches are in mm:
an anisotropic grid is shifted by fractions of a voxel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import floor

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.ops.blur import blurred_differences
from inrreg.ops.descriptors import negate_ratio, subtract_least

_VARIANCE_RANGE = 1e-3, 1e3
"""Of its mean over the image: how far the local variance may be from it."""

Offset = tuple[int, ...]


@dataclass(frozen=True)
class Mind:
    """MIND (Heinrich et al., Medical Image Analysis 2012): one channel for each of the 2 d nearest
    neighbours ``offset_mm`` away, each in 0 ... 1.

    A channel is exp(-D / V): D the squared difference of the Gaussian patches (of ``sigma_mm``)
    around the voxel and around its neighbour, V the mean of D over the neighbours. Invariant to a
    gain other than 0, of either sign, and an offset.
    """

    offset_mm: float = 2.0
    sigma_mm: float = 1.6

    def __post_init__(self) -> None:
        _check_lengths(self.offset_mm, self.sigma_mm)

    def __call__(self, image: Image) -> Image:
        centre = (0,) * image.grid.ndim
        return descriptor(
            image,
            [(centre, offset) for offset in _neighbours(image.grid.ndim)],
            self.offset_mm,
            self.sigma_mm,
        )


@dataclass(frozen=True)
class MindSSC:
    """MIND with self-similarity context (Heinrich et al., MICCAI 2013): one channel for each pair
    of neighbours at a right angle, 12 in 3-D and 4 in 2-D.

    As ``Mind``, but D compares the patches around two neighbours of the voxel, so that the voxel
    itself, which may be noisy, has no special weight.
    """

    offset_mm: float = 2.0
    sigma_mm: float = 1.6

    def __post_init__(self) -> None:
        _check_lengths(self.offset_mm, self.sigma_mm)

    def __call__(self, image: Image) -> Image:
        pairs = [
            (a, b) for a, b in combinations(_neighbours(image.grid.ndim), 2) if np.dot(a, b) == 0
        ]
        return descriptor(image, pairs, self.offset_mm, self.sigma_mm)


@torch.no_grad()
def descriptor(
    image: Image, pairs: Sequence[tuple[Offset, Offset]], offset_mm: float, sigma_mm: float
) -> Image:
    """exp(-D / V), largest channel scaled to 1, with D the patch difference for each pair of
    neighbours; of several channels of ``image`` the sum counts. No gradient.
    """
    needed = sorted({offset for pair in pairs for offset in pair})
    views = torch.stack([_shifted(image, offset, offset_mm) for offset in needed])
    places = [(needed.index(a), needed.index(b)) for a, b in pairs]
    distance = blurred_differences(views, places, image.grid, sigma_mm)
    variance = subtract_least(distance)
    negate_ratio(distance, _within_range(variance))
    return image.with_data(distance.exp_())


def _within_range(variance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The variance, limited in place to ``_VARIANCE_RANGE`` of its mean over the image."""
    typical = float(variance.mean())
    return variance.clamp_(
        min=max(_VARIANCE_RANGE[0] * typical, 1e-30), max=max(_VARIANCE_RANGE[1] * typical, 1e-30)
    )


def _shifted(image: Image, offset: Offset, length_mm: float) -> Float[Tensor, "c *shape"]:
    """The image seen ``offset * length_mm`` further along each index axis, linearly interpolated,
    its border held.
    """
    data = image.data
    for axis, sign in enumerate(offset, start=1):
        if sign:
            n, shift = data.shape[axis], sign * length_mm / image.grid.spacing[axis - 1]
            whole = floor(shift)
            margin = [1 if a != axis else abs(whole) + 1 for a in range(data.ndim)]
            held = torch.cat(
                [
                    data.narrow(axis, 0, 1).repeat(margin),
                    data,
                    data.narrow(axis, n - 1, 1).repeat(margin),
                ],
                axis,
            )
            near, far = (held.narrow(axis, abs(whole) + 1 + step, n) for step in (whole, whole + 1))
            data = torch.lerp(near, far, float(shift - whole))
    return data


def _neighbours(ndim: int) -> list[Offset]:
    """The unit steps along each index axis, both ways."""
    return [
        tuple(sign * int(a == axis) for a in range(ndim))
        for axis in range(ndim)
        for sign in (-1, 1)
    ]


def _check_lengths(offset_mm: float, sigma_mm: float) -> None:
    if not (offset_mm > 0 and sigma_mm >= 0):
        raise InputError(
            "a descriptor needs an offset above 0 mm and a patch of 0 mm or more, got"
            f" {offset_mm:g} and {sigma_mm:g}"
        )
