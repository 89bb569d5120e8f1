"""The compiled form of ``inrreg.ops.spline_jacobian``, and its loops. One pass computes all entries
of the Jacobian of a tensor product of banded bases on a grid of three axes, another the adjoint;
the planes in between are small enough for the cache.

``value_a`` and ``slope_a`` below are the bands (first columns, weights) of the basis and of its
derivative along axis a. The product along the last axis is done before: ``valued`` and ``sloped``
``[c, n0, n1, k]`` are the coefficients times the basis and times its derivative along it.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.banded import AxisMatrix
from inrreg.ops.banded.compiled import weigh_rows
from inrreg.ops.dispatch import as_volume
from inrreg.ops.loops import compiled, in_parallel
from inrreg.ops.spline_jacobian import SplineBasis

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
    """The rest of the adjoint, over axis 0, ``[3, c, m0, k]`` -> the gradients of ``valued`` and
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


def spline_jacobian(
    coefficients: Float[Tensor, "d *lattice"], basis: SplineBasis
) -> Float[Tensor, "j c *shape"]:
    """See ``inrreg.ops.spline_jacobian.spline_jacobian``."""
    return _Rendered.apply(coefficients, basis)


def rendered(
    coefficients: Float[Tensor, "d *lattice"], basis: SplineBasis
) -> Float[Tensor, "j c *shape"]:
    """The Jacobian, without its graph."""
    values, slopes = basis.values_in_three, basis.slopes_in_three
    part = coefficients.detach()[(slice(None), *basis.columns)].contiguous()
    used = as_volume(part, len(basis.shape))
    valued, sloped = (used @ matrix.dense.T for matrix in (values[2], slopes[2]))
    planes = len(values[0].dense)
    out = used.new_empty(len(basis.mixing), len(used), *[len(matrix.dense) for matrix in values])
    bands = [_bands(matrix) for axis in (0, 1) for matrix in (values[axis], slopes[axis])]
    in_parallel(
        render_slopes,
        len(used) * planes,
        valued.numpy(),
        sloped.numpy(),
        *bands,
        basis.mixing_in_three.numpy(),
        out.numpy(),
    )
    return out.view(len(out), len(used), *basis.shape)


def gathered(
    gradient: Float[Tensor, "j c *shape"], basis: SplineBasis
) -> Float[Tensor, "d *lattice"]:
    """The adjoint of the linear part of ``rendered``, without its graph."""
    values, slopes = basis.values_in_three, basis.slopes_in_three
    channels, (n_0, n_1, _) = gradient.shape[1], [m.dense.shape[1] for m in values]
    m_0, _, length = (len(m.dense) for m in values)
    given = as_volume(gradient.detach(), len(basis.shape)).contiguous()
    first, second = (
        [_bands(m.transposed) for m in (values[axis], slopes[axis])] for axis in (0, 1)
    )
    between = given.new_empty(3, channels, m_0, n_1 * length)
    in_parallel(
        gather_slopes,
        channels * m_0,
        given.numpy(),
        basis.mixing_in_three.numpy(),
        *second,
        between.view(3, channels, m_0, n_1, length).numpy(),
    )
    valued, sloped = given.new_empty(2, channels, n_0, n_1 * length)
    in_parallel(
        gather_planes, channels * n_0, between.numpy(), *first, valued.numpy(), sloped.numpy()
    )
    at_knots = [
        part.view(channels, n_0, n_1, length) @ matrix.dense
        for part, matrix in ((valued, values[2]), (sloped, slopes[2]))
    ]
    out = given.new_zeros(channels, *basis.lattice)
    used = out[(slice(None), *basis.columns)]
    used.copy_(torch.add(*at_knots).view(used.shape))
    return out


def _bands(matrix: AxisMatrix) -> Pair:
    return matrix.bands.first, matrix.bands.weights


class _Rendered(torch.autograd.Function):
    """Affine in the coefficients: the derivative is the map less its value at zero."""

    @staticmethod
    def forward(coefficients: Tensor, basis: SplineBasis) -> Tensor:
        return rendered(coefficients, basis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.basis = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gathered.apply(gradient, ctx.basis), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _linear(tangent, ctx.basis)


class _Gathered(torch.autograd.Function):
    """The adjoint of the linear part of ``_Rendered``, whose adjoint is that linear part."""

    @staticmethod
    def forward(gradient: Tensor, basis: SplineBasis) -> Tensor:
        return gathered(gradient, basis)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.basis = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _linear(gradient, ctx.basis), None


def _linear(coefficients: Tensor, basis: SplineBasis) -> Tensor:
    d = len(coefficients)
    identity = torch.eye(d, dtype=coefficients.dtype).reshape(d, d, *[1] * len(basis.shape))
    return _Rendered.apply(coefficients, basis) - identity
