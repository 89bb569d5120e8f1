"""Products of an array with one matrix an axis, for matrices whose rows have a few weights side by
side, as those of spline bases, blurs and resamplings have.
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
from inrreg.ops.dispatch import SINGLE_AND_DOUBLE, operation

LEAST_COLUMNS, COLUMNS_A_WEIGHT = 12, 4
"""The compiled loop adds up the band of a row sooner than a dense product is done where the row has
at least so many columns, and so many more for each weight of the band.
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
        """Its rows without the zeros; on the CPU."""
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
        """Whether its rows are mostly zeros, so that the compiled loop is faster than a dense
        product; on the CPU.
        """
        if self.dense.dtype not in SINGLE_AND_DOUBLE:
            return False
        return LEAST_COLUMNS + COLUMNS_A_WEIGHT * self.bands.weights.shape[1] <= self.dense.shape[1]

    def along(self, data: Tensor, axis: int) -> Tensor:
        """The dense product with ``axis`` of ``data``."""
        head, tail = data.shape[:axis], data.shape[axis + 1 :]
        if not tail:
            # one product of matrices; with each row as a matrix of its own it would be many
            return data.contiguous() @ self.dense.T
        rows = data.reshape(*head, data.shape[axis], -1)
        return (self.dense @ rows).reshape(*head, len(self.dense), *tail)


class Separable:
    """data[c, i, j, k] -> sum over (a, b, c) of M0[i, a] M1[j, b] M2[k, c] data[c, a, b, c], for
    matrices that are asked for more than once.
    """

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        self.matrices = list(matrices)
        spans = [span(matrix) for matrix in matrices]
        self.lower = [lower for lower, _ in spans]
        self.axes = [
            AxisMatrix(matrix[:, lower:upper].contiguous())
            for matrix, (lower, upper) in zip(matrices, spans, strict=True)
        ]

    def __call__(self, data: Float[Tensor, "c *shape"]) -> Float[Tensor, "c *out"]:
        """The product, differentiable as often as asked."""
        return separable_product(data, self)

    def used(self, data: Float[Tensor, "c *shape"]) -> Float[Tensor, "c *used"]:
        """The part of ``data`` that has a weight."""
        for axis, (lower, matrix) in enumerate(zip(self.lower, self.axes, strict=True), start=1):
            data = data.narrow(axis, lower, matrix.dense.shape[1])
        return data

    def to(self, dtype: torch.dtype) -> "Separable":
        """The same product in another precision."""
        return Separable([matrix.to(dtype) for matrix in self.matrices])


def span(matrix: Float[Tensor, "out in"]) -> tuple[int, int]:
    """The first column that has a weight, and the one after the last: a lattice may reach far
    beyond the grid it is rendered on.
    """
    occupied = (matrix != 0).any(0).nonzero()[:, 0]
    return (int(occupied[0]), int(occupied[-1]) + 1) if len(occupied) else (0, 1)


def cheapest_order(axes: Sequence[AxisMatrix]) -> list[int]:
    """The axes in the order of their products: the one that grows least, or shrinks most, comes
    first, so that the others work on fewer numbers.

    Among equals the last axis, whose product is dense, is worked on while there are few numbers.
    """
    trailing = -1 if prod(axis.growth for axis in axes) >= 1 else 1
    return sorted(
        range(len(axes)), key=lambda axis: (round(log2(axes[axis].growth)), trailing * axis)
    )


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, Separable]:
    """The first axis is long enough for bands; the outermost columns have no weight."""
    data = torch.randn(3, *(41, 9, 7)[:ndim], dtype=torch.float64, generator=generator)
    matrices = []
    for n, m in zip(data.shape[1:], (50, 6, 8), strict=False):
        matrix = torch.zeros(m, n, dtype=torch.float64)
        for row in range(m):
            first = 1 + row * (n - 5) // m
            matrix[row, first : first + 3] = torch.rand(3, dtype=torch.float64, generator=generator)
        matrices.append(matrix)
    return data, Separable(matrices)


@operation(compiled="inrreg.ops.banded.compiled", example=_example, nan_alike=False)
def separable_product(
    data: Float[Tensor, "c *shape"], product: Separable
) -> Float[Tensor, "c *out"]:
    """``data`` multiplied with the matrix of each axis, differentiable as often as asked."""
    data = product.used(data)
    for axis in cheapest_order(product.axes):
        data = product.axes[axis].along(data, axis + 1)
    return data
