"""A cubic spline and its slopes at points, both from one visit of the coefficients."""

import numpy as np
from numpy.typing import NDArray

from inrreg.kernels import compiled


@compiled
def cubic_taps(position: float, n: int, index: NDArray, weights: NDArray, slopes: NDArray) -> None:
    """The four samples around a position on an axis of n, mirrored at its ends, their weights and the derivatives of these; beyond the axis the value at its end, without a slope."""
    kind = weights.dtype.type
    zero, one, half, third = kind(0), kind(1), kind(0.5), kind(2) / kind(3)
    end = kind(n - 1)
    held = position < zero or position > end
    position = zero if position < zero else (end if position > end else position)
    first = min(int(np.floor(position)), max(n - 2, 0)) if position == position else 0  # a position that is no number keeps its place in the weights
    t = position - kind(first)
    s = one - t
    for k in range(4):
        i = first + k - 1
        if n == 1:
            i = 0
        else:
            i = abs(i) % (2 * (n - 1))
            i = min(i, 2 * (n - 1) - i)
        index[k] = i
    weights[0], weights[3] = s * s * s / kind(6), t * t * t / kind(6)
    weights[1], weights[2] = third - t * t * (one - half * t), third - s * s * (one - half * s)
    slopes[0], slopes[3] = -half * s * s, half * t * t
    slopes[1], slopes[2] = t * (kind(1.5) * t - kind(2)), -s * (kind(1.5) * s - kind(2))
    if held:
        slopes[:] = zero


@compiled
def spline_at_points(start: int, stop: int, coefficients: NDArray, voxels: NDArray, along: NDArray, values: NDArray, jacobian: NDArray) -> None:
    """values[p, c] and jacobian[p, c, j] = sum over axes a of slope along a times ``along[a, j]``, plus 1 where j is c, of coefficients ``[c, n0, n1, n2]`` at ``voxels[p]``."""
    channels, lattice, directions = len(coefficients), coefficients.shape[1:], along.shape[1]
    kind = voxels.dtype.type
    index, weights, slopes = np.empty((3, 4), np.int64), np.empty((3, 4), voxels.dtype), np.empty((3, 4), voxels.dtype)
    for p in range(start, stop):
        for a in range(3):
            cubic_taps(voxels[p, a], lattice[a], index[a], weights[a], slopes[a])
        for c in range(channels):
            value = slope_0 = slope_1 = slope_2 = kind(0)
            for i in range(4):
                plane = across = last = kind(0)
                for m in range(4):
                    row = coefficients[c, index[0, i], index[1, m]]
                    here = there = kind(0)
                    for k in range(4):
                        sample = row[index[2, k]]
                        here += weights[2, k] * sample
                        there += slopes[2, k] * sample
                    plane += weights[1, m] * here
                    across += slopes[1, m] * here
                    last += weights[1, m] * there
                value += weights[0, i] * plane
                slope_0 += slopes[0, i] * plane
                slope_1 += weights[0, i] * across
                slope_2 += weights[0, i] * last
            values[p, c] = value
            for j in range(directions):
                identity = kind(1) if j == c else kind(0)
                jacobian[p, c, j] = identity + slope_0 * along[0, j] + slope_1 * along[1, j] + slope_2 * along[2, j]
