"""The compiled forms of ``inrreg.ops.spline_at_points``, and their loops over points.

Coefficients are ``[c, x, y, z]``, points ``[m, 3]`` in voxels of their lattice.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from inrreg.ops.dispatch import as_volume, components_in_three
from inrreg.ops.loops import compiled, in_parallel

Array = Any


@compiled
def add_values(first: int, stop: int, points: Array, coefficients: Array, values: Array) -> None:
    """``values`` ``[m, c]`` at points ``first`` to ``stop``."""
    number = points.dtype.type
    index = np.empty((3, 4), np.int64)
    weight = np.empty((3, 4), points.dtype)
    rise = np.empty((3, 4), points.dtype)
    for m in range(first, stop):
        for axis in range(3):
            n = coefficients.shape[axis + 1]
            taps(points[m, axis], n, index[axis], weight[axis], rise[axis])
        for c in range(len(coefficients)):
            total = number(0)
            for i in range(4):
                for j in range(4):
                    row = coefficients[c, index[0, i], index[1, j]]
                    along = (
                        row[index[2, 0]] * weight[2, 0]
                        + row[index[2, 1]] * weight[2, 1]
                        + row[index[2, 2]] * weight[2, 2]
                        + row[index[2, 3]] * weight[2, 3]
                    )
                    total += along * weight[0, i] * weight[1, j]
            values[m, c] = total


@compiled
def add_slopes(first: int, stop: int, points: Array, coefficients: Array, slopes: Array) -> None:
    """``slopes`` ``[m, c, 3]`` along each axis of the lattice at points ``first`` to ``stop``."""
    number = points.dtype.type
    zero = number(0)
    index = np.empty((3, 4), np.int64)
    weight = np.empty((3, 4), points.dtype)
    rise = np.empty((3, 4), points.dtype)
    held = np.empty(3, np.bool_)
    for m in range(first, stop):
        for axis in range(3):
            n = coefficients.shape[axis + 1]
            held[axis] = taps(points[m, axis], n, index[axis], weight[axis], rise[axis])
        for c in range(len(coefficients)):
            x, y, z = number(0), number(0), number(0)
            for i in range(4):
                for j in range(4):
                    row = coefficients[c, index[0, i], index[1, j]]
                    a, b = number(0), number(0)
                    for k in range(4):
                        a, b = (
                            a + row[index[2, k]] * weight[2, k],
                            b + row[index[2, k]] * rise[2, k],
                        )
                    x, y, z = (
                        x + a * rise[0, i] * weight[1, j],
                        y + a * weight[0, i] * rise[1, j],
                        z + b * weight[0, i] * weight[1, j],
                    )
            # also where a coefficient is NaN
            slopes[m, c, 0] = zero if held[0] else x
            slopes[m, c, 1] = zero if held[1] else y
            slopes[m, c, 2] = zero if held[2] else z


@compiled
def taps(voxel: float, n: int, index: Array, weight: Array, rise: Array) -> bool:
    """The indices of the four coefficients that meet at a position along an axis of ``n``, their
    weights, and the derivatives of the weights per voxel. True where the border value is held.

    A position that is NaN has weights that are NaN.
    """
    number = weight.dtype.type
    one, two, three, six = number(1), number(2), number(3), number(6)
    position = min(max(voxel, number(0)), number(n - 1)) if voxel == voxel else voxel
    base = min(int(position), max(n - 2, 0)) if voxel == voxel else 0
    t = position - number(base)
    s = one - t
    weight[0], weight[1], weight[2], weight[3] = (
        s * s * s / six,
        two / three - t * t * (one - t / two),
        two / three - s * s * (one - s / two),
        t * t * t / six,
    )
    held = (voxel < 0) | (voxel > n - 1)
    inside = number(0) if held else one
    rise[0], rise[3] = -inside * s * s / two, inside * t * t / two
    rise[1], rise[2] = inside * t * (three * t / two - two), -inside * s * (three * s / two - two)
    for k in range(4):
        index[k] = mirrored(base + k - 1, n)
    return held


@compiled
def mirrored(index: int, n: int) -> int:
    """Reflected about the first and last sample."""
    if n == 1:
        return 0
    period = 2 * (n - 1)
    index = index % period
    return index if index < n else period - index


def spline_values(
    coefficients: Shaped[Tensor, "c *shape"], voxels: Float[Tensor, "*sites d"]
) -> Float[Tensor, "c *sites"]:
    """See ``inrreg.ops.spline_at_points.spline_values``."""
    points, volumes = _arrays(coefficients, voxels)
    values = torch.empty(len(points), len(volumes), dtype=voxels.dtype)
    in_parallel(add_values, len(points), points, volumes, values.numpy())
    return values.T.reshape(len(volumes), *voxels.shape[:-1])


def spline_slopes(
    coefficients: Shaped[Tensor, "c *shape"], voxels: Float[Tensor, "*sites d"]
) -> Float[Tensor, "c *sites d"]:
    """See ``inrreg.ops.spline_at_points.spline_slopes``."""
    points, volumes = _arrays(coefficients, voxels)
    slopes = torch.empty(len(points), len(volumes), 3, dtype=voxels.dtype)
    in_parallel(add_slopes, len(points), points, volumes, slopes.numpy())
    along = slopes if voxels.shape[-1] == 3 else slopes[..., ::2]
    return along.transpose(0, 1).reshape(len(volumes), *voxels.shape)


def _arrays(coefficients: Tensor, voxels: Tensor) -> tuple[Array, Array]:
    """Points ``[m, 3]`` and coefficients ``[c, x, y, z]``."""
    ndim = voxels.shape[-1]
    flat = voxels.detach().reshape(-1, ndim)
    points = flat if ndim == 3 else components_in_three(flat.T).T
    volumes = as_volume(coefficients.detach(), ndim)
    return points.contiguous().numpy(), volumes.contiguous().numpy()
