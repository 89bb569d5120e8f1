"""Products with matrices whose rows have a few weights side by side (``inrreg.banded.Bands``), along axes of arrays; the last axis is only walked along.

Row numbers are unsigned here, which tells the compiler as well as a slice does that no index is negative, and costs nothing where rows are short.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.kernels import compiled


@compiled
def weigh_rows(weights: NDArray, first: int, source: NDArray, out: NDArray) -> None:
    """out[k] = sum over t of weights[t] source[first + t, k], four rows at a time."""
    n, whole = np.uint64(len(out)), len(weights) // 4 * 4
    for t in range(0, whole, 4):
        u, v, w, x = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        a = np.uint64(first + t)
        b, c, d = a + np.uint64(1), a + np.uint64(2), a + np.uint64(3)
        if t == 0:
            for k in range(n):
                out[k] = u * source[a, k] + v * source[b, k] + w * source[c, k] + x * source[d, k]
        else:
            for k in range(n):
                out[k] += u * source[a, k] + v * source[b, k] + w * source[c, k] + x * source[d, k]
    for t in range(whole, len(weights)):
        u, a = weights[t], np.uint64(first + t)
        if t == 0:
            for k in range(n):
                out[k] = u * source[a, k]
        else:
            for k in range(n):
                out[k] += u * source[a, k]


@compiled
def along_axis(start: int, stop: int, source: NDArray, first: NDArray, weights: NDArray, out: NDArray) -> None:
    """out[p, m] = sum over t of weights[m, t] source[p, first[m] + t], rows p m; [p, n, k] -> [p, m, k]."""
    rows = len(weights)
    for row in range(start, stop):
        p, m = row // rows, row % rows
        weigh_rows(weights[m], first[m], source[p], out[p, m])
