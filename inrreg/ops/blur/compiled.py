"""The compiled forms of ``inrreg.ops.blur``, and their loops: within planes first, where a plane
stays in the cache, then across them.

A Gaussian matrix whose rows sum to one is a convolution with ``taps`` and a factor ``share`` for
each place. ``taps`` are the weights from the middle one, which is 1, to one side. ``share`` is one
over the sum of the taps that fall inside.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.ops.dispatch import as_volume, in_three
from inrreg.ops.loops import compiled, in_parallel
from inrreg.ops.separable import smoothing

Axis = tuple[NDArray[Any], NDArray[Any]]
"""Taps and shares."""


@compiled
def within_planes(
    first: int,
    stop: int,
    volume: NDArray[np.floating],
    taps: NDArray[np.floating],
    other_taps: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """``volume`` ``[x, y, z]`` convolved along y with ``taps`` and along z with ``other_taps``, for
    the planes x.
    """
    padded, work = margins(volume.shape[1], volume.shape[2], taps, other_taps, volume)
    for x in range(first, stop):
        for y in range(volume.shape[1]):
            for z in range(volume.shape[2]):
                padded[len(taps) - 1 + y, len(other_taps) - 1 + z] = volume[x, y, z]
        blur_plane(padded, work, taps, other_taps, out[x])


@compiled
def within_planes_of_difference(
    first: int,
    stop: int,
    one: NDArray[np.floating],
    other: NDArray[np.floating],
    taps: NDArray[np.floating],
    other_taps: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """The same of the squared difference of two volumes ``[c, x, y, z]``, summed over channels."""
    margin = len(other_taps) - 1
    padded, work = margins(one.shape[2], one.shape[3], taps, other_taps, one[0])
    for x in range(first, stop):
        for y in range(one.shape[2]):
            line = padded[len(taps) - 1 + y, margin : margin + one.shape[3]]
            line[:] = 0
            for c in range(len(one)):
                for z in range(len(line)):
                    line[z] += (one[c, x, y, z] - other[c, x, y, z]) ** 2
        blur_plane(padded, work, taps, other_taps, out[x])


@compiled
def across_planes(
    first: int,
    stop: int,
    volume: NDArray[np.floating],
    taps: NDArray[np.floating],
    x_share: NDArray[np.floating],
    y_share: NDArray[np.floating],
    z_share: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """``volume`` ``[x, y, z]`` convolved along x with ``taps``, times the shares of its place along
    the three axes.
    """
    size, reach = volume.shape[1] * volume.shape[2], len(taps) - 1
    flat, total = volume.reshape(-1), np.empty(size, volume.dtype)
    for x in range(first, stop):
        if reach <= x < len(volume) - reach:
            convolve(flat[(x - reach) * size : (x + reach + 1) * size], size, taps, total)
        else:
            total[:] = 0
            for other in range(max(0, x - reach), min(len(volume), x + reach + 1)):
                add(flat[other * size : (other + 1) * size], taps[abs(other - x)], total)
        for y in range(volume.shape[1]):
            scaled(
                total[y * len(z_share) : (y + 1) * len(z_share)],
                x_share[x] * y_share[y],
                z_share,
                out[x, y],
            )


@compiled
def add(values: NDArray[np.floating], weight: float, total: NDArray[np.floating]) -> None:
    """total += weight * values."""
    for k in range(len(total)):
        total[k] += weight * values[k]


@compiled
def scaled(
    values: NDArray[np.floating],
    weight: float,
    weights: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """out = values * weight * weights."""
    for k in range(len(out)):
        out[k] = values[k] * weight * weights[k]


@compiled
def margins(
    high: int,
    wide: int,
    taps: NDArray[np.floating],
    other_taps: NDArray[np.floating],
    like: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """A plane with room for the taps around it, all 0, and two to work in."""
    room = wide + 2 * (len(other_taps) - 1)
    return np.zeros((high + 2 * (len(taps) - 1), room), like.dtype), np.empty(
        (2, high * room), like.dtype
    )


@compiled
def blur_plane(
    padded: NDArray[np.floating],
    work: NDArray[np.floating],
    taps: NDArray[np.floating],
    other_taps: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """The plane within the margins of ``padded``, convolved along both axes; all its rows at once,
    which the margins keep apart.
    """
    convolve(padded.reshape(-1), padded.shape[1], taps, work[0])
    convolve(work[0], 1, other_taps, work[1, : work.shape[1] - 2 * (len(other_taps) - 1)])
    rows = work[1].reshape(out.shape[0], -1)
    for y in range(out.shape[0]):
        for z in range(out.shape[1]):
            out[y, z] = rows[y, z]


@compiled
def convolve(
    values: NDArray[np.floating], step: int, taps: NDArray[np.floating], out: NDArray[np.floating]
) -> None:
    """out[k]: the sum of values[k + t * step], t from 0 to twice the reach, times the taps; two to
    either side at a time.
    """
    reach, n = len(taps) - 1, len(out)
    middle = values[reach * step : reach * step + n]
    for k in range(n):
        out[k] = taps[0] * middle[k]
    for t in range(2, reach + 1, 2):
        a, b = (
            values[(reach - t) * step : (reach - t) * step + n],
            values[(reach - t + 1) * step : (reach - t + 1) * step + n],
        )
        c, d = (
            values[(reach + t - 1) * step : (reach + t - 1) * step + n],
            values[(reach + t) * step : (reach + t) * step + n],
        )
        far, near = taps[t], taps[t - 1]
        for k in range(n):
            out[k] += far * (a[k] + d[k]) + near * (b[k] + c[k])
    if reach % 2 == 1:
        low, high, tap = values[:n], values[2 * reach * step : 2 * reach * step + n], taps[reach]
        for k in range(n):
            out[k] += tap * (low[k] + high[k])


def blurred(
    channels: Float[Tensor, "c *shape"], grid: Grid, sigma_mm: float
) -> Float[Tensor, "c *shape"]:
    """See ``inrreg.ops.blur.blurred``."""
    return _Blurred.apply(channels, grid, sigma_mm)


def blurred_differences(
    views: Float[Tensor, "v c *shape"],
    pairs: Sequence[tuple[int, int]],
    grid: Grid,
    sigma_mm: float,
) -> Float[Tensor, "pairs *shape"]:
    """See ``inrreg.ops.blur.blurred_differences``."""
    return _BlurredDifferences.apply(views, pairs, grid, sigma_mm)


class _Blurred(torch.autograd.Function):
    """Linear in the channels."""

    @staticmethod
    def forward(ctx: Any, channels: Tensor, grid: Grid, sigma_mm: float) -> Tensor:
        volumes = _volumes(channels, grid.ndim)
        ctx.grid, ctx.axes = grid, _axes(grid, sigma_mm, volumes.dtype)
        return torch.from_numpy(_convolved(volumes, ctx.axes)).view(channels.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _adjoint(gradient, ctx.grid, ctx.axes), None, None


class _BlurredDifferences(torch.autograd.Function):
    """Quadratic in the views."""

    @staticmethod
    def forward(
        ctx: Any, views: Tensor, pairs: Sequence[tuple[int, int]], grid: Grid, sigma_mm: float
    ) -> Tensor:
        volumes = _volumes(views, grid.ndim)
        axes = _axes(grid, sigma_mm, volumes.dtype)
        ctx.save_for_backward(views)
        ctx.pairs, ctx.grid, ctx.axes = pairs, grid, axes
        out = np.empty((len(pairs), *volumes.shape[2:]), volumes.dtype)
        work = np.empty_like(out[0])
        for (one, other), result in zip(pairs, out, strict=True):
            _run(within_planes_of_difference, (volumes[one], volumes[other]), axes, work, result)
        return torch.from_numpy(out).view(len(pairs), *grid.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (views,) = ctx.saved_tensors
        result = torch.zeros_like(views)
        for (one, other), weight in zip(
            ctx.pairs, _adjoint(gradient, ctx.grid, ctx.axes), strict=True
        ):
            slope = 2 * (views[one] - views[other]) * weight
            result[one] += slope
            result[other] -= slope
        return result, None, None, None


def _adjoint(
    gradient: Float[Tensor, "c *shape"], grid: Grid, axes: Sequence[Axis]
) -> Float[Tensor, "c *shape"]:
    """The transposed matrices: shares first, then the same taps."""
    x_share, y_share, z_share = (share for _, share in axes)
    shares = x_share[:, None, None] * y_share[:, None] * z_share
    bare = [(taps, np.ones_like(share)) for taps, share in axes]
    found = _convolved(_volumes(gradient, grid.ndim) * shares, bare)
    return torch.from_numpy(found).view(gradient.shape)


def _convolved(volumes: NDArray[Any], axes: Sequence[Axis]) -> NDArray[Any]:
    """Volumes ``[c, x, y, z]``, each convolved along its three axes."""
    out, work = np.empty_like(volumes), np.empty_like(volumes[0])
    for volume, result in zip(volumes, out, strict=True):
        _run(within_planes, (volume,), axes, work, result)
    return out


def _run(
    planes: Callable[..., None],
    volumes: tuple[NDArray[Any], ...],
    axes: Sequence[Axis],
    work: NDArray[Any],
    out: NDArray[Any],
) -> None:
    """``planes`` of the volumes into ``work``, then across them into ``out``."""
    (x_taps, x_share), (y_taps, y_share), (z_taps, z_share) = axes
    in_parallel(planes, len(work), *volumes, y_taps, z_taps, work)
    in_parallel(across_planes, len(work), work, x_taps, x_share, y_share, z_share, out)


def _volumes(values: Float[Tensor, "*shape"], ndim: int) -> NDArray[Any]:
    return as_volume(values.detach(), ndim).contiguous().numpy()


def _axes(grid: Grid, sigma_mm: float, dtype: Any) -> list[Axis]:
    """Taps and shares of three axes."""
    found = []
    for matrix in smoothing(grid, sigma_mm):
        row = matrix[0] / matrix[0, 0]
        taps = row[: np.flatnonzero(row)[-1] + 1]
        found.append((taps.astype(dtype), matrix.diagonal().astype(dtype)))
    return in_three(found, grid.ndim, (np.ones(1, dtype), np.ones(1, dtype)))
