"""Matrices and weighted sums of distances between points, for splines whose radial function is the
distance.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation

AT_ONCE = 1 << 22
"""Distances that the torch form holds at a time."""


def _points(ndim: int, generator: torch.Generator) -> tuple[Tensor]:
    return (torch.randn(33, ndim, dtype=torch.float64, generator=generator),)


def _places(ndim: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    at, points, weights = (
        torch.randn(n, ndim, dtype=torch.float64, generator=generator) for n in (70, 33, 33)
    )
    at[5] = points[7]
    return at, points, weights


@operation(compiled="inrreg.ops.distances.compiled", example=_points)
@torch.no_grad()
def distances(points: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """The distance of every two points. No gradient."""
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


@operation(compiled="inrreg.ops.distances.compiled", example=_places)
@torch.no_grad()
def weighted_distances(
    at: Float[Tensor, "k d"], points: Float[Tensor, "n d"], weights: Float[Tensor, "n c"]
) -> Float[Tensor, "k c"]:
    """For each place ``at`` the sum over points of weight times distance, for up to three columns
    of weights. No gradient.
    """
    parts = at.split(max(1, AT_ONCE // max(1, len(points))))
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, points, compute_mode=mode) @ weights for part in parts])
