"""Interpolation at world points: the only caller of torch's grid_sample, and the only place where
its corner convention stands.

``linear`` is the fast one (first derivatives only). ``smooth_linear`` and ``cubic`` go through
explicit taps and can be differentiated as often as their polynomials allow. Points outside the
image see the border value, or a constant, or are left out through the weight of ``inside``.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from inrreg.core.grid import Grid, affine_map
from inrreg.core.image import Image
from inrreg.ops.gathering import gathered, gathered_slopes, taken
from inrreg.ops.interpolation import GridToVoxelMap, interpolated, within
from inrreg.ops.separable import apply_along_axes, smoothing, spline_coefficients
from inrreg.ops.spline_at_points import spline_slopes, spline_values

Outside = Literal["border"] | float


def inside(grid: Grid, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites"]:
    """1 where a world point lies within the voxels of ``grid``, 0 outside: the validity weight of
    samples taken there. No gradient.
    """
    return inside_at(grid, sampler_coordinates(grid, points.detach()))


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
    if image.device.type != "cpu" or image.data.requires_grad:
        return image.with_data(linear(image, grid.points(device=image.device), outside=0.0), grid)
    still = torch.zeros(grid.ndim, *grid.shape).movedim(0, -1)
    return image.with_data(by_rows(image, still, grid, still.new_zeros(image.channels, 1)), grid)


def by_rows(
    image: Image, displacement: Float[Tensor, "*shape d"], grid: Grid, fill: Shaped[Tensor, "c 1"]
) -> Float[Tensor, "c *shape"]:
    """``image`` at the voxels of ``grid`` moved by ``displacement``, mm, by compiled loops on a
    CPU, with ``fill``, one a channel, beyond it.
    """
    placement = GridToVoxelMap.unmoved(grid, image.grid)
    values = interpolated(image.data.to(displacement.dtype), displacement, placement)
    outside = (
        within(displacement.new_ones(grid.shape), displacement, image.grid.shape, placement) == 0
    )
    for channel, value in zip(values, fill[:, 0], strict=True):
        channel.masked_fill_(outside, value)
    return values


def sampler_coordinates(grid: Grid, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
    """World points as grid_sample wants them, last axis first and -1 ...

    1 from the first voxel centre to the last, in one affine map.

    Where several images on one grid are sampled at the same points, this is done once for all.
    """
    scale = 2 / np.maximum(np.array(grid.shape) - 1, 1)
    to_sampler = (scale[:, None] * np.linalg.inv(grid.matrix))[::-1]
    return affine_map(points, to_sampler, grid.origin, -np.ones(grid.ndim))


def linear_at(
    data: Float[Tensor, "c *shape"], coordinates: Float[Tensor, "*sites d"]
) -> Float[Tensor, "c *sites"]:
    """Linear interpolation at sampler coordinates, border held.

    On CPU the sites are spread over a batch, the axis that torch runs in parallel.
    """
    sites, d = coordinates.shape[:-1], coordinates.shape[-1]
    flat = coordinates.reshape(-1, d)
    count, batch = len(flat), torch.get_num_threads() if data.device.type == "cpu" else 1
    rows = -(-count // batch)
    flat = F.pad(flat, (0, 0, 0, rows * batch - count)).view(batch, rows, *[1] * (d - 1), d)
    values = F.grid_sample(
        data.to(coordinates.dtype).expand(batch, *data.shape),
        flat,
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return (
        values.reshape(batch, len(data), rows)
        .transpose(0, 1)
        .reshape(len(data), -1)[:, :count]
        .reshape(len(data), *sites)
    )


def inside_at(grid: Grid, coordinates: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites"]:
    """What ``inside`` gives, at sampler coordinates."""
    shape = np.array(grid.shape[::-1], dtype=float)
    half_voxel = 1 / np.maximum(shape - 1, 1)
    lower, upper = (
        torch.tensor(bound, dtype=coordinates.dtype, device=coordinates.device)
        for bound in (-1 - half_voxel, -1 + (2 * shape - 1) * half_voxel)
    )
    return ((coordinates >= lower) & (coordinates <= upper)).all(-1).to(coordinates.dtype)


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
