"""The compiled form of ``inrreg.ops.banded``, and its loops: products with banded matrices along
axes of arrays. The loops run along the last axis, whose own product is dense.

Row numbers are unsigned here, which tells the compiler as well as a slice does that no index is
negative, and costs nothing where rows are short.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.banded import AxisMatrix, Separable, cheapest_order
from inrreg.ops.loops import compiled, in_parallel


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


def separable_product(
    data: Float[Tensor, "c *shape"], product: Separable
) -> Float[Tensor, "c *out"]:
    """See ``inrreg.ops.banded.separable_product``."""
    return _Product.apply(product.used(data), product.axes)


class _Product(torch.autograd.Function):
    """Linear, so its derivative is itself and its adjoint the product with the transposed
    matrices.
    """

    @staticmethod
    def forward(data: Tensor, axes: Sequence[AxisMatrix]) -> Tensor:
        for axis in cheapest_order(axes):
            data = along(axes[axis], data, axis + 1)
        return data

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.axes = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Product.apply(gradient, [axis.transposed for axis in ctx.axes]), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _Product.apply(tangent, ctx.axes)


def along(matrix: AxisMatrix, data: Tensor, axis: int) -> Tensor:
    """The product with ``axis`` of ``data``: that of the bands where it is faster than the dense
    one. Along the last axis the loop would have no rows to add.
    """
    if axis == data.ndim - 1 or not matrix.banded:
        return matrix.along(data, axis)
    head, tail = data.shape[:axis], data.shape[axis + 1 :]
    source = data.detach().reshape(-1, data.shape[axis], tail.numel()).contiguous()
    out = torch.empty(len(source), len(matrix.dense), source.shape[2], dtype=data.dtype)
    in_parallel(
        along_axis,
        len(source) * len(matrix.dense),
        source.numpy(),
        matrix.bands.first,
        matrix.bands.weights,
        out.numpy(),
    )
    return out.reshape(*head, len(matrix.dense), *tail)
