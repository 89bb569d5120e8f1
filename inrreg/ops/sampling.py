"""Interpolation at world points.

``linear`` is the fast one (first derivatives only). ``smooth_linear`` and ``cubic`` go through
explicit taps and can be differentiated as often as their polynomials allow. Points outside the
image see the border value, or a constant, or are left out through the weight of ``inside``.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.gathering import gathered, gathered_slopes, taken
from inrreg.ops.interpolation import GridToVoxelMap, interpolated, within
from inrreg.ops.sampler import inside_at, linear_at, sampler_coordinates
from inrreg.ops.separable import apply_along_axes, smoothing, spline_coefficients
from inrreg.ops.spline_at_points import spline_slopes, spline_values

Outside = Literal["border"] | float


def inside(grid: Grid, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites"]:
    """1 where a world point lies within the voxels of ``grid``, 0 outside: the validity weight of
    samples taken there. No gradient.
    """
    return inside_at(grid.shape, sampler_coordinates(grid, points.detach()))


def linear(
    image: Image, points: Float[Tensor, "*sites d"], outside: Outside = "border"
) -> Float[Tensor, "c *sites"]:
    """Linear interpolation at world points; once differentiable by the points."""
    values = linear_at(image.data, sampler_coordinates(image.grid, points))
    return _fill_outside(values, image.grid, points, outside)


def on_grid(image: Image, grid: Grid) -> Image:
    """``image`` on another grid of the same space by linear interpolation, 0 beyond it; the image
    itself where the grid is its own.
    """
    if image.grid.same_as(grid):
        return image
    if image.data.requires_grad:
        return image.with_data(linear(image, grid.points(device=image.device), outside=0.0), grid)
    still = torch.zeros(grid.ndim, *grid.shape, device=image.device).movedim(0, -1)
    return image.with_data(by_rows(image, still, grid, still.new_zeros(image.channels, 1)), grid)


def by_rows(
    image: Image, displacement: Float[Tensor, "*shape d"], grid: Grid, fill: Shaped[Tensor, "c 1"]
) -> Float[Tensor, "c *shape"]:
    """``image`` at the voxels of ``grid`` moved by ``displacement``, mm, and beyond the image
    ``fill``, one number a channel. Not differentiable by the image.
    """
    placement = GridToVoxelMap.unmoved(grid, image.grid)
    values = interpolated(image.data.to(displacement.dtype), displacement, placement)
    outside = (
        within(displacement.new_ones(grid.shape), displacement, image.grid.shape, placement) == 0
    )
    for channel, value in zip(values, fill[:, 0], strict=True):
        channel.masked_fill_(outside, value)
    return values


def nearest(
    image: Image, points: Float[Tensor, "*sites d"], outside: Outside = "border"
) -> Shaped[Tensor, "c *sites"]:
    """The value of the nearest voxel, without a gradient: for labels and masks."""
    voxels = image.grid.to_voxel(points.detach())
    index = [_nearest_index(voxels[..., a], n) for a, n in enumerate(image.grid.shape)]
    return _fill_outside(taken(image.data, index), image.grid, points, outside)


def smooth_linear(
    image: Image, points: Float[Tensor, "*sites d"], outside: Outside = "border"
) -> Float[Tensor, "c *sites"]:
    """Linear interpolation whose gradient can be differentiated again."""
    voxels = image.grid.to_voxel(points)
    return _fill_outside(gathered(image.data, voxels, 1), image.grid, points, outside)


def cubic(
    image: Image, points: Float[Tensor, "*sites d"], outside: Outside = "border"
) -> Float[Tensor, "c *sites"]:
    """Interpolating cubic B-spline at world points, mirrored at the border; twice differentiable by
    the points.
    """
    voxels = image.grid.to_voxel(points)
    return _fill_outside(gathered(spline_image(image).data, voxels, 3), image.grid, points, outside)


def spline_combination(
    coefficients: Image, points: Float[Tensor, "*sites d"]
) -> Float[Tensor, "c *sites"]:
    """sum of coefficient times cubic B-spline at world points; outside the lattice the value at its
    border.
    """
    return spline_values(coefficients.data, coefficients.grid.to_voxel(points))


def value_and_gradient(
    image: Image, points: Float[Tensor, "*sites d"], order: Literal[1, 3] = 1
) -> tuple[Float[Tensor, "c *sites"], Float[Tensor, "c *sites d"]]:
    """Interpolated values (linear or cubic) and their gradient per mm along x, y, z; the gradient
    is zero where the border value is held.
    """
    data = spline_image(image).data if order == 3 else image.data
    return gathered(data, image.grid.to_voxel(points), order), spatial_gradient(
        data, image.grid, points, order
    )


def spatial_gradient(
    data: Float[Tensor, "c *shape"],
    grid: Grid,
    points: Float[Tensor, "*sites d"],
    order: Literal[1, 3],
) -> Float[Tensor, "c *sites d"]:
    """Gradient per mm of the interpolant of samples (order 1) or spline coefficients (order 3)."""
    voxels = grid.to_voxel(points)
    to_world = torch.as_tensor(np.linalg.inv(grid.matrix), dtype=points.dtype, device=points.device)
    slopes = spline_slopes(data, voxels) if order == 3 else gathered_slopes(data, voxels, 1)
    return slopes @ to_world


def spline_image(image: Image) -> Image:
    """The cubic B-spline coefficients that interpolate ``image``."""
    return image.with_data(
        apply_along_axes(image.data, [spline_coefficients(n) for n in image.grid.shape])
    )


def smoothed(image: Image, sigma_mm: float | Sequence[float]) -> Image:
    """``image`` blurred by a Gaussian of ``sigma_mm``."""
    return image.with_data(apply_along_axes(image.data, smoothing(image.grid, sigma_mm)))


def _nearest_index(voxel: Tensor, n: int) -> Tensor:
    """Half-integer positions go up, as in ITK."""
    return (voxel + 0.5).floor().long().clamp(0, n - 1)


def _fill_outside(values: Tensor, grid: Grid, points: Tensor, outside: Outside) -> Tensor:
    if outside == "border":
        return values
    return torch.where(
        inside(grid, points).bool(),
        values,
        torch.as_tensor(outside, dtype=values.dtype, device=values.device),
    )
