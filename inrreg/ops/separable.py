"""Linear operators along the index axes: cubic B-spline bases, Gaussian smoothing and resampling
between aligned grids.

A lattice rendered on an aligned grid, a pyramid level, a blurred image: each is one small matrix an
axis, applied as d products (``inrreg.ops.banded``). That is exact, differentiable and the same on
every device.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.core.errors import FrameError
from inrreg.core.grid import Grid
from inrreg.ops.banded import Separable

Matrix = NDArray[np.float64]
ROUNDING = 1e-14


def apply_along_axes(
    data: Float[Tensor, "c *shape"], matrices: Sequence[Matrix | Tensor]
) -> Float[Tensor, "c *out"]:
    """data[c, i, j, k] -> sum over (a, b, c) of M0[i, a] M1[j, b] M2[k, c] data[c, a, b, c];
    ``matrices`` are one ``[out, in]`` an axis.
    """
    return Separable(
        [torch.as_tensor(matrix, dtype=data.dtype, device=data.device) for matrix in matrices]
    )(data)


def cubic_weights(t: Tensor, derivative: int = 0) -> list[Tensor]:
    """The four uniform cubic B-spline weights at fraction ``t`` in [0, 1], or their first or second
    derivative by t.
    """
    if derivative == 0:
        s = 1 - t
        return [s**3 / 6, 2 / 3 - t**2 * (1 - t / 2), 2 / 3 - s**2 * (1 - s / 2), t**3 / 6]
    if derivative == 1:
        s = 1 - t
        return [-(s**2) / 2, t * (1.5 * t - 2), -s * (1.5 * s - 2), t**2 / 2]
    return [1 - t, 3 * t - 2, 1 - 3 * t, t]


def linear_weights(t: Tensor, derivative: int = 0) -> list[Tensor]:
    """The two linear interpolation weights at fraction ``t``, or their derivative by t."""
    if derivative == 0:
        return [1 - t, t]
    one = torch.ones_like(t)
    return [-one, one] if derivative == 1 else [0 * one, 0 * one]


def mirror(index: Tensor, n: int) -> Tensor:
    """Indices beyond 0 ... n-1 reflected about the first and last sample."""
    if n == 1:
        return torch.zeros_like(index)
    period = 2 * (n - 1)
    index = index.remainder(period)
    return torch.where(index < n, index, period - index)


def taps(
    voxel: Tensor, n: int, order: int, derivative: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Indices and weights of the samples that meet at a continuous index along one axis, clamped to
    the axis: order 1 (linear) or 3 (cubic B-spline).
    """
    position = voxel.clamp(0, n - 1)
    base = position.detach().floor().clamp(max=max(n - 2, 0))
    fraction = position - base
    first = base.long().clamp(min=0)  # NaN turns into a far negative index; its weights stay NaN
    if order == 1:
        return [first, (first + 1).clamp(max=n - 1)], linear_weights(fraction, derivative)
    return [mirror(first + k, n) for k in (-1, 0, 1, 2)], cubic_weights(fraction, derivative)


def basis(voxels: Float[Tensor, " m"], n: int, order: int = 3, derivative: int = 0) -> Matrix:
    """The ``[m, n]`` matrix from n lattice values to their interpolation (B-spline combination for
    order 3) at continuous indices.
    """
    matrix = np.zeros((len(voxels), n))
    rows = np.arange(len(voxels))
    for index, weight in zip(*taps(voxels.double(), n, order, derivative), strict=True):
        np.add.at(matrix, (rows, index.numpy()), weight.numpy())
    if derivative > 0:
        # beyond the samples the border value is held
        matrix[((voxels < -1e-6) | (voxels > n - 1 + 1e-6)).numpy()] = 0.0
    # a sample hit but for rounding: the cube of that is below what single precision holds without
    # slowing down the processor
    matrix[np.abs(matrix) < ROUNDING] = 0.0
    return matrix


def spline_coefficients(n: int) -> Matrix:
    """The ``[n, n]`` matrix from n samples to the cubic B-spline coefficients that interpolate
    them, mirrored at both ends.
    """
    if n == 1:
        return np.ones((1, 1))
    result, above = np.eye(n), np.zeros(n)
    # elimination of the three bands 1/6, 2/3, 1/6, of which those at the mirrors count twice
    for i in range(n):
        before = 0.0 if i == 0 else 1 / 3 if i == n - 1 else 1 / 6
        pivot = 2 / 3 - before * above[i - 1]
        above[i] = (1 / 3 if i == 0 else 1 / 6) / pivot
        result[i] = (result[i] - before * result[i - 1]) / pivot
    for i in range(n - 2, -1, -1):
        result[i] -= above[i] * result[i + 1]
    return result


def gaussian(n: int, sigma: float) -> Matrix:
    """The ``[n, n]`` Gaussian smoothing matrix of ``sigma`` voxels; rows sum to one, so borders do
    not darken.
    """
    if sigma <= 0:
        return np.eye(n)
    offset = np.arange(n)[:, None] - np.arange(n)
    weights = np.exp(-0.5 * (offset / sigma) ** 2) * (np.abs(offset) <= np.ceil(4 * sigma))
    return weights / weights.sum(1, keepdims=True)


def axis_positions(target: Grid, source: Grid) -> list[Tensor]:
    """Where the index axes of ``target`` fall on those of ``source``, in source voxels, one vector
    an axis.

    Raises:
        FrameError: the grids are not aligned.
    """
    if not target.aligned_with(source):
        raise FrameError(f"{target} and {source} have different axes; sample at points instead")
    start = source.to_voxel(torch.tensor(target.origin)[None])[0]
    return [
        start[a] + torch.arange(n, dtype=torch.float64) * (target.spacing[a] / source.spacing[a])
        for a, n in enumerate(target.shape)
    ]


def resampling(
    target: Grid, source: Grid, order: int = 1, derivatives: Sequence[int] | None = None
) -> list[Matrix]:
    """The matrices that carry values (coefficients for order 3) on ``source`` to an aligned
    ``target``; ``derivatives`` by mm along each index axis.
    """
    orders = derivatives or [0] * target.ndim
    positions = axis_positions(target, source)
    return [
        basis(v, n, order, q) / h**q
        for v, n, q, h in zip(positions, source.shape, orders, source.spacing, strict=True)
    ]


def smoothing(grid: Grid, sigma_mm: float | Sequence[float]) -> list[Matrix]:
    """The matrices of a Gaussian of ``sigma_mm`` along each index axis of ``grid``."""
    return [
        gaussian(n, s / h)
        for n, s, h in zip(
            grid.shape,
            np.broadcast_to(np.asarray(sigma_mm, dtype=float), (grid.ndim,)),
            grid.spacing,
            strict=True,
        )
    ]


class _BoxSum(torch.autograd.Function):
    """Zero-padded box sums are their own adjoint."""

    @staticmethod
    def forward(ctx: Any, data: Tensor, radii: Sequence[int]) -> Tensor:
        ctx.radii = radii
        return _shifted_sums(data, radii)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return box_sum(gradient, ctx.radii), None


def box_sum(
    data: Float[Tensor, "b c *lattice"], radii: Sequence[int]
) -> Float[Tensor, "b c *lattice"]:
    """Sum over the box of 2 r + 1 samples along each axis around every sample, zero beyond the
    border.
    """
    return _BoxSum.apply(data, tuple(radii))


def _shifted_sums(data: Tensor, radii: Sequence[int]) -> Tensor:
    """Adding shifted copies beats both convolution and running sums for the small windows of local
    measures.
    """
    for axis, radius in enumerate(radii, start=data.ndim - len(radii)):
        n = data.shape[axis]
        total = data.clone()
        for shift in range(1, min(radius, n - 1) + 1):
            total.narrow(axis, shift, n - shift).add_(data.narrow(axis, 0, n - shift))
            total.narrow(axis, 0, n - shift).add_(data.narrow(axis, shift, n - shift))
        data = total
    return data
