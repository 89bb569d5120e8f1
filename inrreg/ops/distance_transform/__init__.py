"""How far the nearest voxel of a set is, up to a limit."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.dispatch import operation


def _example(ndim: int, generator: torch.Generator) -> tuple[object, ...]:
    shape = (30, 23) if ndim == 2 else (17, 12, 14)
    return 4.0, torch.rand(shape, generator=generator) < 0.02, (2.0, 0.7, 1.3)[:ndim]


@operation(compiled="inrreg.ops.distance_transform.compiled", example=_example)
def distance_within(
    reach_mm: float, members: Bool[Tensor, "*shape"], spacing: Sequence[float] | NDArray[np.float64]
) -> Float[Tensor, "*shape"]:
    """Distance in mm, voxel centre to voxel centre, to the nearest of ``members``, in 2-D or 3-D
    with voxels ``spacing`` mm apart; ``reach_mm`` where that is nearer. In double precision.
    """
    squares = members.new_full(members.shape, reach_mm**2, dtype=torch.float64)
    squares.masked_fill_(members, 0.0)
    for axis in reversed(range(members.ndim)):
        nearest, n = squares.clone(), members.shape[axis]
        for shift, distance in _shifts(n, float(spacing[axis]), reach_mm):
            for target, source in ((shift, 0), (0, shift)):
                part = nearest.narrow(axis, target, n - shift)
                part.copy_(part.minimum(squares.narrow(axis, source, n - shift) + distance**2))
        squares = nearest
    return squares.sqrt_()


def _shifts(n: int, step: float, reach: float) -> Iterator[tuple[int, float]]:
    """The numbers of voxels below ``n`` that lead less than ``reach`` away, and how far."""
    shift = 1
    while shift < n and shift * step < reach:
        yield shift, shift * step
        shift += 1
