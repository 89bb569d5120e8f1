"""The Jacobian of a tensor product of banded bases on a grid of three axes, and its adjoint: nine arrays in one walk, planes small enough for the cache in between.

``value_a`` and ``slope_a`` below are the bands (first columns, weights) of the basis and of its derivative along axis a. The last axis has been worked off: ``valued`` and ``sloped``
``[c, n0, n1, k]`` are the coefficients times the basis and times its derivative along it.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.kernels import compiled
from inrreg.kernels.bands import weigh_rows

Pair = tuple[NDArray, NDArray]


@compiled
def mix_three(weights: NDArray, constant: float, source: NDArray, out: NDArray) -> None:
    """out[k] = constant + sum over the three rows of ``source``."""
    u, v, w = weights[0], weights[1], weights[2]
    for k in range(np.uint64(len(out))):
        out[k] = constant + u * source[np.uint64(0), k] + v * source[np.uint64(1), k] + w * source[np.uint64(2), k]


@compiled
def render_slopes(start: int, stop: int, valued: NDArray, sloped: NDArray, value_0: Pair, slope_0: Pair, value_1: Pair, slope_1: Pair, mixing: NDArray, out: NDArray) -> None:
    """out[j, c] = sum over a of mixing[j, a] times the derivative along axis a, plus 1 where j is c; rows c m0 of out ``[j, c, m0, m1, k]``."""
    _, n, inner, length = valued.shape
    planes, rows = len(value_0[0]), len(value_1[0])
    one = out.dtype.type(1)
    flat = np.empty((3, inner * length), valued.dtype)
    slopes = np.empty((3, rows, length), valued.dtype)
    plane, mixed = flat.reshape(3, inner, length), slopes.reshape(3, rows * length)
    for row in range(start, stop):
        c, i = row // planes, row % planes
        weigh_rows(slope_0[1][i], slope_0[0][i], valued[c].reshape(n, inner * length), flat[0])
        weigh_rows(value_0[1][i], value_0[0][i], valued[c].reshape(n, inner * length), flat[1])
        weigh_rows(value_0[1][i], value_0[0][i], sloped[c].reshape(n, inner * length), flat[2])
        for m in range(rows):
            weigh_rows(value_1[1][m], value_1[0][m], plane[0], slopes[0, m])
            weigh_rows(slope_1[1][m], slope_1[0][m], plane[1], slopes[1, m])
            weigh_rows(value_1[1][m], value_1[0][m], plane[2], slopes[2, m])
        for j in range(len(mixing)):
            mix_three(mixing[j], one if j == c else one - one, mixed, out[j, c, i].reshape(-1))


@compiled
def gather_slopes(start: int, stop: int, gradient: NDArray, mixing: NDArray, value_1: Pair, slope_1: Pair, out: NDArray) -> None:
    """The adjoint over the derivatives and axis 1, ``[j, c, m0, m1, k]`` -> ``[3, c, m0, n1, k]``, rows c m0; ``value_1`` and ``slope_1`` are the bands of the transposed matrices."""
    directions, _, planes, rows, length = gradient.shape
    plane = np.empty((3, rows, length), gradient.dtype)
    flat = plane.reshape(3, rows * length)
    for row in range(start, stop):
        c, i = row // planes, row % planes
        for a in range(3):
            target = flat[a]
            for j in range(directions):
                u, source = mixing[j, a], gradient[j, c, i].reshape(-1)
                if j == 0:
                    for k in range(len(target)):
                        target[k] = u * source[k]
                elif u != 0:
                    for k in range(len(target)):
                        target[k] += u * source[k]
        for m in range(len(value_1[0])):
            weigh_rows(value_1[1][m], value_1[0][m], plane[0], out[0, c, i, m])
            weigh_rows(slope_1[1][m], slope_1[0][m], plane[1], out[1, c, i, m])
            weigh_rows(value_1[1][m], value_1[0][m], plane[2], out[2, c, i, m])


@compiled
def gather_planes(start: int, stop: int, gathered: NDArray, value_0: Pair, slope_0: Pair, valued: NDArray, sloped: NDArray) -> None:
    """What is left of the adjoint over axis 0, ``[3, c, m0, k]`` -> the gradients of ``valued`` and ``sloped`` ``[c, n0, k]``, rows c n0; bands of the transposed matrices."""
    planes = len(value_0[0])
    second = np.empty(valued.shape[-1], valued.dtype)
    for row in range(start, stop):
        c, i = row // planes, row % planes
        target = valued[c, i]
        weigh_rows(slope_0[1][i], slope_0[0][i], gathered[0, c], target)
        weigh_rows(value_0[1][i], value_0[0][i], gathered[1, c], second)
        for k in range(len(target)):
            target[k] += second[k]
        weigh_rows(value_0[1][i], value_0[0][i], gathered[2, c], sloped[c, i])
