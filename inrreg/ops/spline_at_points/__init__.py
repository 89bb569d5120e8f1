"""Cubic B-spline combinations at continuous voxel indices, and their slopes.

The compiled forms have no derivative: they serve where torch records none. Elsewhere the torch
forms serve, which are twice differentiable by the indices and linear in the coefficients.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inrreg.ops.dispatch import operation, unrecorded
from inrreg.ops.gathering import gathered, gathered_slopes


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices in the lattice and up to two voxels beyond it."""
    shape = torch.tensor((7, 6, 5)[:ndim])
    coefficients = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    sites = torch.rand(20, 15, ndim, dtype=torch.float64, generator=generator)
    return coefficients, sites * (shape + 3) - 2


@operation(compiled="inrreg.ops.spline_at_points.compiled", example=_example, when=unrecorded)
def spline_values(
    coefficients: Shaped[Tensor, "c *shape"], voxels: Float[Tensor, "*sites d"]
) -> Float[Tensor, "c *sites"]:
    """sum of coefficient times cubic B-spline, mirrored at both ends of an axis; beyond the lattice
    the value at its border.
    """
    return gathered(coefficients, voxels, 3)


@operation(compiled="inrreg.ops.spline_at_points.compiled", example=_example, when=unrecorded)
def spline_slopes(
    coefficients: Shaped[Tensor, "c *shape"], voxels: Float[Tensor, "*sites d"]
) -> Float[Tensor, "c *sites d"]:
    """The derivatives of ``spline_values`` along each axis of the lattice, per voxel; 0 where the
    border value is held.
    """
    return gathered_slopes(coefficients, voxels, 3)
