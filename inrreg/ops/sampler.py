"""Linear interpolation by torch's grid_sample: its only caller, and the only place that knows its
corner convention.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.core.grid import Grid, affine_map


def voxel_scale(shape: Sequence[int]) -> NDArray[np.float64]:
    """Sampler coordinates per voxel, one number an axis, in the order of ``shape``."""
    return 2 / np.maximum(np.array(shape) - 1, 1)


def sampler_coordinates(grid: Grid, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
    """World points in the coordinates of grid_sample: the last axis first, and -1 to 1 from the
    first voxel centre to the last.

    Several images on one grid that are sampled at the same points can share the result.
    """
    scale = voxel_scale(grid.shape)
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


def inside_at(
    shape: Sequence[int], coordinates: Float[Tensor, "*sites d"]
) -> Float[Tensor, "*sites"]:
    """1 where sampler coordinates lie within the voxels of an image of ``shape``, 0 outside."""
    sizes = np.array(shape[::-1], dtype=float)
    half_voxel = 1 / np.maximum(sizes - 1, 1)
    lower, upper = (
        torch.tensor(bound, dtype=coordinates.dtype, device=coordinates.device)
        for bound in (-1 - half_voxel, -1 + (2 * sizes - 1) * half_voxel)
    )
    return ((coordinates >= lower) & (coordinates <= upper)).all(-1).to(coordinates.dtype)
