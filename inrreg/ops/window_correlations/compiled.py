"""The compiled form of ``window_correlations``.

Sums run along: a plane enters and one leaves, then a row, then a voxel.
"""

from collections.abc import Sequence
from math import nan

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.dispatch import as_volume, in_three
from inrreg.ops.loops import compiled, in_parallel

LAYERS = 32
"""Sums begin anew after this number of layers, so that their rounding does not depend on the number
of threads.
"""


@compiled
def local_correlations(
    first: int,
    stop: int,
    f: NDArray,
    w: NDArray,
    inside: NDArray,
    radii: NDArray,
    least_f: float,
    least_w: float,
    result: NDArray,
) -> None:
    """``correlations_of_layers`` of blocks ``first`` to ``stop``, of ``LAYERS`` layers each."""
    for block in range(first, stop):
        correlations_of_layers(
            block * LAYERS,
            min((block + 1) * LAYERS, len(f)),
            f,
            w,
            inside,
            radii,
            least_f,
            least_w,
            result,
        )


@compiled
def correlations_of_layers(
    first: int,
    stop: int,
    f: NDArray,
    w: NDArray,
    inside: NDArray,
    radii: NDArray,
    least_f: float,
    least_w: float,
    result: NDArray,
) -> None:
    """``result[i]``: the sum of correlations of ``f`` and ``w`` over the boxes of layer i, and the
    number of these boxes; ``inrreg.ops.window_correlations`` says which boxes count.
    """
    layers, rows, n = f.shape
    above, across, along = radii[0], radii[1], radii[2]
    planes, sums, before = np.empty((5, rows, n)), np.empty((5, n)), np.empty((5, n + 1))
    before[:, 0] = 0
    planes[:] = 0
    for i in range(max(0, first - above), min(layers, first + above)):
        add_products(f[i], w[i], 1.0, planes)
    for i in range(first, stop):
        if i + above < layers:
            add_products(f[i + above], w[i + above], 1.0, planes)
        if i > first and i - above - 1 >= 0:
            add_products(f[i - above - 1], w[i - above - 1], -1.0, planes)
        deep = min(layers, i + above + 1) - max(0, i - above)
        total, counted = 0.0, 0
        sums[:] = 0
        for j in range(min(across, rows)):
            add_rows(planes[:, j], 1.0, sums)
        for j in range(rows):
            if j + across < rows:
                add_rows(planes[:, j + across], 1.0, sums)
            if j - across - 1 >= 0:
                add_rows(planes[:, j - across - 1], -1.0, sums)
            if inside[i, j].any():
                size = deep * (min(rows, j + across + 1) - max(0, j - across))
                more, boxes = of_row(sums, before, inside[i, j], along, size, least_f, least_w)
                total, counted = total + more, counted + boxes
        result[i, 0], result[i, 1] = total, counted


@compiled
def add_products(f: NDArray, w: NDArray, sign: float, planes: NDArray) -> None:
    """``sign`` times f, w, f f, w w and f w onto ``planes`` ``[5, y, z]``."""
    for j in range(len(f)):
        p, q, a, b, c, d, e = (
            f[j],
            w[j],
            planes[0, j],
            planes[1, j],
            planes[2, j],
            planes[3, j],
            planes[4, j],
        )
        for k in range(p.size):
            a[k] += sign * p[k]
            b[k] += sign * q[k]
            c[k] += sign * p[k] * p[k]
            d[k] += sign * q[k] * q[k]
            e[k] += sign * p[k] * q[k]


@compiled
def add_rows(rows: NDArray, sign: float, sums: NDArray) -> None:
    """``sign`` times ``rows`` onto ``sums``, both ``[5, z]``."""
    for m in range(5):
        row, target = rows[m], sums[m]
        for k in range(row.size):
            target[k] += sign * row[k]


@compiled
def of_row(
    sums: NDArray,
    before: NDArray,
    inside: NDArray,
    along: int,
    size: int,
    least_f: float,
    least_w: float,
) -> tuple[float, int]:
    """Sum of correlations and number of boxes of one row; ``before`` ``[5, z + 1]`` is overwritten,
    ``size`` the boxes' extent across the row, in voxels.
    """
    n = len(inside)
    for m in range(5):
        row, total = sums[m], before[m]
        for k in range(n):
            total[k + 1] = total[k] + row[k]
    correlation, counted = 0.0, 0
    mean = np.zeros(5)
    for k in range(n):
        if not inside[k]:
            continue
        lower, upper = max(0, k - along), min(n, k + along + 1)
        for m in range(5):
            mean[m] = (before[m, upper] - before[m, lower]) / (size * (upper - lower))
        variance_f, variance_w = mean[2] - mean[0] * mean[0], mean[3] - mean[1] * mean[1]
        if variance_f > least_f:
            counted += 1
            if variance_w > least_w:
                correlation += (mean[4] - mean[0] * mean[1]) / (variance_f * variance_w) ** 0.5
    return correlation, counted


def window_correlations(
    f: Float[Tensor, "*shape"],
    w: Float[Tensor, "*shape"],
    inside: Bool[Tensor, "*shape"],
    radii: Sequence[int],
    least_f: float,
    least_w: float,
) -> tuple[float, int]:
    """See ``inrreg.ops.window_correlations.window_correlations``."""
    if not bool((f.sum() + w.sum()).isfinite()):
        return nan, 0  # running sums would carry it on to other windows
    volumes = [as_volume(each, each.ndim).contiguous().numpy() for each in (f, w, inside)]
    sums = np.empty((len(volumes[0]), 2))
    in_parallel(
        local_correlations,
        -(-len(sums) // LAYERS),
        *volumes,
        np.array(in_three(radii, f.ndim, fill=0), dtype=np.int64),
        least_f,
        least_w,
        sums,
    )
    total, counted = sums.sum(0)
    return float(total), int(counted)
