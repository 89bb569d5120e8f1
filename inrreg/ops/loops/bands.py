"""Products with matrices whose rows have a few weights side by side (``inrreg.ops.banded.Bands``),
along axes of arrays; the last axis is only walked along.

Row numbers are unsigned here, which tells the compiler as well as a slice does that no index is
negative, and costs nothing where rows are short.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.ops.loops import compiled


@compiled
def weigh_rows(
    weights: NDArray, m: int, first: int, source: NDArray, p: int, out: NDArray, q: int, r: int
) -> None:
    """out[q, r, k] = sum over t of weights[m, t] source[p, first + t, k], four rows at a time."""
    n, width = np.uint64(out.shape[2]), weights.shape[1]
    whole = width // 4 * 4
    for t in range(0, whole, 4):
        s = np.uint64(t)
        u, v, w, x = (
            weights[m, s],
            weights[m, s + np.uint64(1)],
            weights[m, s + np.uint64(2)],
            weights[m, s + np.uint64(3)],
        )
        a = np.uint64(first + t)
        b, c, d = a + np.uint64(1), a + np.uint64(2), a + np.uint64(3)
        if t == 0:
            for k in range(n):
                out[q, r, k] = (
                    u * source[p, a, k]
                    + v * source[p, b, k]
                    + w * source[p, c, k]
                    + x * source[p, d, k]
                )
        else:
            for k in range(n):
                out[q, r, k] += (
                    u * source[p, a, k]
                    + v * source[p, b, k]
                    + w * source[p, c, k]
                    + x * source[p, d, k]
                )
    for t in range(whole, width):
        u, a = weights[m, np.uint64(t)], np.uint64(first + t)
        if t == 0:
            for k in range(n):
                out[q, r, k] = u * source[p, a, k]
        else:
            for k in range(n):
                out[q, r, k] += u * source[p, a, k]


@compiled
def along_axis(
    start: int, stop: int, source: NDArray, first: NDArray, weights: NDArray, out: NDArray
) -> None:
    """out[p, m] = sum over t of weights[m, t] source[p, first[m] + t], rows p m; [p, n, k] -> [p,
    m, k].
    """
    rows = len(weights)
    for row in range(start, stop):
        p, m = np.uint64(row // rows), np.uint64(row % rows)
        weigh_rows(weights, m, first[m], source, p, out, p, m)
