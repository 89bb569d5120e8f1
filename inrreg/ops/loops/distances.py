"""Sums and matrices of distances between points in 3-D, for splines whose radial function is the
distance.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.ops.loops import compiled


@compiled
def distances(
    first: int, stop: int, points: NDArray[np.floating], out: NDArray[np.floating]
) -> None:
    """``out[i, j]`` = |point i - point j|, of points ``[3, n]``."""
    x, y, z = points[0], points[1], points[2]
    for i in range(first, stop):
        a, b, c, row = x[i], y[i], z[i], out[i, : len(x)]
        for j in range(len(x)):
            row[j] = np.sqrt((x[j] - a) ** 2 + (y[j] - b) ** 2 + (z[j] - c) ** 2)


@compiled
def weighted_distances(
    first: int,
    stop: int,
    at: NDArray[np.floating],
    points: NDArray[np.floating],
    weights: NDArray[np.floating],
    out: NDArray[np.floating],
) -> None:
    """``out[:, k]`` = sum over i of weights[:, i] |at[:, k] - points[:, i]|; everything is ``[3,
    ...]``.
    """
    x, y, z, u, v, w = points[0], points[1], points[2], weights[0], weights[1], weights[2]
    zero = points.dtype.type(0)
    for k in range(first, stop):
        a, b, c, p, q, r = at[0, k], at[1, k], at[2, k], zero, zero, zero
        for i in range(len(x)):
            distance = np.sqrt((x[i] - a) ** 2 + (y[i] - b) ** 2 + (z[i] - c) ** 2)
            p += distance * u[i]
            q += distance * v[i]
            r += distance * w[i]
        out[0, k], out[1, k], out[2, k] = p, q, r
