"""Matrices of which each row has a few weights side by side, as spline bases, blurs and resamplings
are: on a CPU their products with the axes of an array by compiled loops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, prod
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.core.threads import lazy

LEAST_COLUMNS, COLUMNS_A_WEIGHT = 12, 4
"""How long a row must be for its band to be added up sooner than a dense product is done: so many
columns, and so many more for each weight of the band.
"""


@dataclass(frozen=True, eq=False)
class Bands:
    """Row m of a matrix has its weights at columns ``first[m]``, ``first[m]`` + 1, ...; bands are
    of one width, some with zeros at their ends.
    """

    first: NDArray[np.int64]
    weights: NDArray[Any]

    @classmethod
    def of(cls, matrix: NDArray[Any]) -> Self:
        """The bands of ``matrix``, of a width that is a multiple of four where the matrix has so
        many columns; a row of zeros has a band of zeros.
        """
        occupied, n = matrix != 0, matrix.shape[1]
        some = occupied.any(1)
        first = np.where(some, occupied.argmax(1), 0)
        width = int(np.where(some, n - occupied[:, ::-1].argmax(1) - first, 1).max())
        width = min(-(-width // 4) * 4, n)
        first = np.minimum(first, n - width)
        return cls(first, np.take_along_axis(matrix, first[:, None] + np.arange(width), 1))


class AxisMatrix:
    """A matrix ``[out, in]`` to be multiplied with one axis of arrays of its type, on its
    device.
    """

    def __init__(self, dense: Float[Tensor, "out in"]) -> None:
        self.dense = dense

    @lazy
    def bands(self) -> Bands:
        """Its rows without the zeros."""
        return Bands.of(self.dense.numpy())

    @lazy
    def transposed(self) -> "AxisMatrix":
        """The matrix of the adjoint."""
        return AxisMatrix(self.dense.T.contiguous())

    @property
    def growth(self) -> float:
        """Numbers after the product for each before it."""
        return self.dense.shape[0] / self.dense.shape[1]

    @lazy
    def banded(self) -> bool:
        """Whether rows of an array are added up by the compiled loop: it is for the processor, and
        for rows that are mostly zeros.
        """
        if self.dense.device.type != "cpu" or self.dense.dtype not in (
            torch.float32,
            torch.float64,
        ):
            return False
        return LEAST_COLUMNS + COLUMNS_A_WEIGHT * self.bands.weights.shape[1] <= self.dense.shape[1]

    def along(self, data: Tensor, axis: int) -> Tensor:
        """The product with ``axis`` of ``data``; along the last one, where the compiled loop would
        have no rows to add, always the dense one.
        """
        head, tail = data.shape[:axis], data.shape[axis + 1 :]
        if not tail:
            # one product of matrices, where rows apart would be many
            return data.contiguous() @ self.dense.T
        rows = data.reshape(*head, data.shape[axis], -1)
        return (self._added(rows) if self.banded else self.dense @ rows).reshape(
            *head, len(self.dense), *tail
        )

    def _added(self, rows: Float[Tensor, "*head in k"]) -> Float[Tensor, "*head out k"]:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.bands import along_axis

        source = rows.detach().contiguous().reshape(-1, *rows.shape[-2:])
        out = torch.empty(len(source), len(self.dense), rows.shape[-1], dtype=rows.dtype)
        in_parallel(
            along_axis,
            len(source) * len(self.dense),
            source.numpy(),
            self.bands.first,
            self.bands.weights,
            out.numpy(),
        )
        return out.reshape(*rows.shape[:-2], *out.shape[1:])


class Separable:
    """data[c, i, j, k] -> sum over (a, b, c) of M0[i, a] M1[j, b] M2[k, c] data[c, a, b, c], for
    matrices that are asked for more than once.
    """

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        spans = [span(matrix) for matrix in matrices]
        self.lower = [lower for lower, _ in spans]
        self.axes = [
            AxisMatrix(matrix[:, lower:upper].contiguous())
            for matrix, (lower, upper) in zip(matrices, spans, strict=True)
        ]

    def __call__(self, data: Float[Tensor, "c *shape"]) -> Float[Tensor, "c *out"]:
        """The product, differentiable as often as asked."""
        for axis, (lower, matrix) in enumerate(zip(self.lower, self.axes, strict=True), start=1):
            data = data.narrow(axis, lower, matrix.dense.shape[1])
        return _Product.apply(data, self.axes)


def span(matrix: Float[Tensor, "out in"]) -> tuple[int, int]:
    """The columns that have a weight, as a piece: a lattice may reach far beyond the grid it is
    rendered on.
    """
    occupied = (matrix != 0).any(0).nonzero()[:, 0]
    return (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 1)


class _Product(torch.autograd.Function):
    """Linear, so its derivative is itself and its adjoint the product with the transposed
    matrices.
    """

    @staticmethod
    def forward(data: Tensor, axes: Sequence[AxisMatrix]) -> Tensor:
        for axis in _order(axes):
            data = axes[axis].along(data, axis + 1)
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


def _order(axes: Sequence[AxisMatrix]) -> list[int]:
    """What grows least, or shrinks most, comes first: the others then work on less.

    Among equals the last axis, whose product is dense, does its work while there is little.
    """
    trailing = -1 if prod(axis.growth for axis in axes) >= 1 else 1
    return sorted(
        range(len(axes)), key=lambda axis: (round(log2(axes[axis].growth)), trailing * axis)
    )
