"""The Jacobian of a tensor product of banded bases on a grid of three axes, and its adjoint: nine
arrays in one walk, planes small enough for the cache in between.

``value_a`` and ``slope_a`` below are the bands (first columns, weights) of the basis and of its
derivative along axis a. The last axis has been worked off: ``valued`` and ``sloped`` ``[c, n0, n1,
k]`` are the coefficients times the basis and times its derivative along it.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.ops.banded.compiled import weigh_rows
from inrreg.ops.loops import compiled

Pair = tuple[NDArray, NDArray]


@compiled
def render_slopes(
    start: int,
    stop: int,
    valued: NDArray,
    sloped: NDArray,
    value_0: Pair,
    slope_0: Pair,
    value_1: Pair,
    slope_1: Pair,
    mixing: NDArray,
    out: NDArray,
) -> None:
    """out[j, c] = sum over a of mixing[j, a] times the derivative along axis a, plus 1 where j is
    c; rows c m0 of out ``[j, c, m0, m1, k]``.
    """
    components, n, inner, length = valued.shape
    planes, rows = len(value_0[0]), len(value_1[0])
    flat, slopes = (
        np.empty((1, 3, inner * length), valued.dtype),
        np.empty((3, rows, length), valued.dtype),
    )
    plane, mixed = flat.reshape(3, inner, length), slopes.reshape(3, rows * length)
    flat_valued, flat_sloped = (
        valued.reshape(components, n, inner * length),
        sloped.reshape(components, n, inner * length),
    )
    flat_out = out.reshape(len(out), components * planes, rows * length)
    zero, one, two = np.uint64(0), np.uint64(1), np.uint64(2)
    for row in range(np.uint64(start), np.uint64(stop)):
        c, i = row // np.uint64(planes), row % np.uint64(planes)
        weigh_rows(slope_0[1], i, slope_0[0][i], flat_valued, c, flat, zero, zero)
        weigh_rows(value_0[1], i, value_0[0][i], flat_valued, c, flat, zero, one)
        weigh_rows(value_0[1], i, value_0[0][i], flat_sloped, c, flat, zero, two)
        for m in range(np.uint64(rows)):
            weigh_rows(value_1[1], m, value_1[0][m], plane, zero, slopes, zero, m)
            weigh_rows(slope_1[1], m, slope_1[0][m], plane, one, slopes, one, m)
            weigh_rows(value_1[1], m, value_1[0][m], plane, two, slopes, two, m)
        for j in range(np.uint64(len(mixing))):
            constant, u, v, w = (
                valued.dtype.type(j == c),
                mixing[j, zero],
                mixing[j, one],
                mixing[j, two],
            )
            for k in range(np.uint64(rows * length)):
                flat_out[j, row, k] = (
                    constant + u * mixed[zero, k] + v * mixed[one, k] + w * mixed[two, k]
                )


@compiled
def gather_slopes(
    start: int,
    stop: int,
    gradient: NDArray,
    mixing: NDArray,
    value_1: Pair,
    slope_1: Pair,
    out: NDArray,
) -> None:
    """The adjoint over the derivatives and axis 1, ``[j, c, m0, m1, k]`` -> ``[3, c, m0, n1, k]``,
    rows c m0; ``value_1`` and ``slope_1`` are the bands of the transposed matrices.
    """
    directions, components, planes, rows, length = gradient.shape
    plane, whole = np.empty((3, rows, length), gradient.dtype), np.uint64(components * planes)
    flat, flat_gradient = (
        plane.reshape(3, rows * length),
        gradient.reshape(directions, components * planes, rows * length),
    )
    flat_out = out.reshape(3 * components * planes, len(value_1[0]), length)
    zero, one, two = np.uint64(0), np.uint64(1), np.uint64(2)
    for row in range(np.uint64(start), np.uint64(stop)):
        for a in range(np.uint64(3)):
            for j in range(np.uint64(directions)):
                u = mixing[j, a]
                if j == 0:
                    for k in range(np.uint64(rows * length)):
                        flat[a, k] = u * flat_gradient[j, row, k]
                elif u != 0:
                    for k in range(np.uint64(rows * length)):
                        flat[a, k] += u * flat_gradient[j, row, k]
        for m in range(np.uint64(len(value_1[0]))):
            weigh_rows(value_1[1], m, value_1[0][m], plane, zero, flat_out, row, m)
            weigh_rows(slope_1[1], m, slope_1[0][m], plane, one, flat_out, whole + row, m)
            weigh_rows(value_1[1], m, value_1[0][m], plane, two, flat_out, two * whole + row, m)


@compiled
def gather_planes(
    start: int,
    stop: int,
    gathered: NDArray,
    value_0: Pair,
    slope_0: Pair,
    valued: NDArray,
    sloped: NDArray,
) -> None:
    """What is left of the adjoint over axis 0, ``[3, c, m0, k]`` -> the gradients of ``valued`` and
    ``sloped`` ``[c, n0, k]``, rows c n0; bands of the transposed matrices.
    """
    planes, components, length = np.uint64(len(value_0[0])), gathered.shape[1], valued.shape[2]
    source, second = (
        gathered.reshape(3 * components, gathered.shape[2], length),
        np.empty((1, 1, length), valued.dtype),
    )
    zero, whole = np.uint64(0), np.uint64(components)
    for row in range(np.uint64(start), np.uint64(stop)):
        c, i = row // planes, row % planes
        weigh_rows(slope_0[1], i, slope_0[0][i], source, c, valued, c, i)
        weigh_rows(value_0[1], i, value_0[0][i], source, whole + c, second, zero, zero)
        for k in range(np.uint64(length)):
            valued[c, i, k] += second[zero, zero, k]
        weigh_rows(value_0[1], i, value_0[0][i], source, np.uint64(2) * whole + c, sloped, c, i)
