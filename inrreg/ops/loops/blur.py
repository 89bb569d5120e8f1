"""Gaussian blur of volumes: within planes first, where the plane stays in the cache, then across
them.

A Gaussian whose rows sum to one is a convolution with ``taps`` (1 in the middle, half of them
given) and a factor a place, ``share``: beyond the border there is nothing, and what is missing is
made up for.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.ops.loops import compiled, in_parallel
from inrreg.ops.separable import smoothing


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
    """Each channel blurred by a Gaussian of ``sigma_mm``: what ``smoothed`` gives, on a CPU."""
    volumes = _deep(channels)
    axes, work, out = (
        _taps(grid, sigma_mm, volumes.dtype),
        np.empty(volumes.shape[1:], volumes.dtype),
        np.empty_like(volumes),
    )
    for volume, result in zip(volumes, out, strict=True):
        in_parallel(within_planes, len(work), volume, axes[1][0], axes[2][0], work)
        in_parallel(
            across_planes, len(work), work, axes[0][0], *[share for _, share in axes], result
        )
    return torch.from_numpy(out).reshape(channels.shape)


def blurred_differences(
    pairs: Sequence[tuple[Tensor, Tensor]], grid: Grid, sigma_mm: float
) -> Float[Tensor, "pairs *shape"]:
    """The squared difference of each pair of images ``[c, *shape]``, summed over channels and
    blurred by a Gaussian of ``sigma_mm``; on a CPU.
    """
    first = _deep(pairs[0][0])
    axes, work, out = (
        _taps(grid, sigma_mm, first.dtype),
        np.empty(first.shape[1:], first.dtype),
        np.empty((len(pairs), *first.shape[1:]), first.dtype),
    )
    for (one, other), result in zip(pairs, out, strict=True):
        in_parallel(
            within_planes_of_difference,
            len(work),
            _deep(one),
            _deep(other),
            axes[1][0],
            axes[2][0],
            work,
        )
        in_parallel(
            across_planes, len(work), work, axes[0][0], *[share for _, share in axes], result
        )
    return torch.from_numpy(out).reshape(len(pairs), *grid.shape)


def _deep(volumes: Float[Tensor, "c *shape"]) -> NDArray[Any]:
    """An image in 2-D is one layer."""
    return (
        volumes.detach()
        .reshape(len(volumes), *(1,) * (4 - volumes.ndim), *volumes.shape[1:])
        .contiguous()
        .numpy()
    )


def _taps(grid: Grid, sigma_mm: float, dtype: Any) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Of three axes the weights to one side, from the middle one, which is 1, as far as they go,
    and the share of each place.
    """
    found = [(np.ones(1), np.ones(1))] * (3 - grid.ndim)
    for matrix in smoothing(grid, sigma_mm):
        row = matrix[0] / matrix[0, 0]
        found.append((row[: np.flatnonzero(row)[-1] + 1], matrix.diagonal()))
    return [(taps.astype(dtype), share.astype(dtype)) for taps, share in found]
