"""Cubic B-spline combinations at loose points and their slopes: the 4^d coefficients around each
point, mirrored at both ends of an axis.

Coefficients are ``[c, x, y, z]``, points ``[m, 3]`` in voxels of their lattice, held at its border.
"""

from typing import Any

import numpy as np

from inrreg.ops.loops import compiled

Array = Any


@compiled
def spline_values(first: int, stop: int, points: Array, coefficients: Array, values: Array) -> None:
    """``values`` ``[m, c]`` at points ``first`` to ``stop``."""
    number = points.dtype.type
    index, weight, unused = (
        np.empty((3, 4), np.int64),
        np.empty((3, 4), points.dtype),
        np.empty((3, 4), points.dtype),
    )
    for m in range(first, stop):
        for axis in range(3):
            taps(
                points[m, axis],
                coefficients.shape[axis + 1],
                index[axis],
                weight[axis],
                unused[axis],
            )
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
def spline_slopes(first: int, stop: int, points: Array, coefficients: Array, slopes: Array) -> None:
    """``slopes`` ``[m, c, 3]`` along each axis of the lattice, per voxel, at points ``first`` to
    ``stop``; 0 where the border is held.
    """
    number = points.dtype.type
    index, weight, rise = (
        np.empty((3, 4), np.int64),
        np.empty((3, 4), points.dtype),
        np.empty((3, 4), points.dtype),
    )
    for m in range(first, stop):
        for axis in range(3):
            taps(
                points[m, axis], coefficients.shape[axis + 1], index[axis], weight[axis], rise[axis]
            )
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
            slopes[m, c, 0], slopes[m, c, 1], slopes[m, c, 2] = x, y, z


@compiled
def taps(voxel: float, n: int, index: Array, weight: Array, rise: Array) -> None:
    """The four coefficients that meet at a position along an axis of ``n``, what each weighs, and
    how that rises per voxel; a position that is no number has such weights.
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


@compiled
def mirrored(index: int, n: int) -> int:
    """Reflected about the first and last sample."""
    if n == 1:
        return 0
    period = 2 * (n - 1)
    index = index % period
    return index if index < n else period - index
