"""The Jacobian of a spline on a grid, all entries at once."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.threads import lazy
from inrreg.ops import separable
from inrreg.ops.banded import AxisMatrix, Separable, span
from inrreg.ops.dispatch import components_in_three, in_three, operation


class SplineBasis:
    """A tensor product of bases on a grid, and their derivatives, for grids that are asked for more
    than once.

    ``values`` are the bases of the axes, ``slopes`` their derivatives per mm along the axis,
    ``[out, in]``; ``mixing[j, a]`` is the part of axis a in world axis j.
    """

    def __init__(
        self, values: Sequence[Tensor], slopes: Sequence[Tensor], mixing: Float[Tensor, "d d"]
    ) -> None:
        self.values, self.slopes, self.mixing = list(values), list(slopes), mixing
        self.lattice = [matrix.shape[1] for matrix in values]
        self.shape = [len(matrix) for matrix in values]
        self.columns = [slice(*span(matrix)) for matrix in values]
        """Of the lattice, those that have a weight on the grid."""

    @lazy
    def derivatives(self) -> list[Separable]:
        """The derivative along each axis."""
        d = len(self.values)
        return [
            Separable([(self.slopes if a == axis else self.values)[a] for a in range(d)])
            for axis in range(d)
        ]

    @lazy
    def values_in_three(self) -> list[AxisMatrix]:
        """The bases of three axes, of the columns that have a weight."""
        return in_three(
            self._used(self.values), len(self.values), AxisMatrix(self.mixing.new_ones(1, 1))
        )

    @lazy
    def slopes_in_three(self) -> list[AxisMatrix]:
        """The derivatives along three axes, of the same columns."""
        return in_three(
            self._used(self.slopes), len(self.slopes), AxisMatrix(self.mixing.new_zeros(1, 1))
        )

    @lazy
    def mixing_in_three(self) -> Float[Tensor, "d 3"]:
        """``mixing`` of three axes."""
        return components_in_three(self.mixing.T).T.contiguous()

    def to(self, dtype: torch.dtype) -> "SplineBasis":
        """The same in another precision."""
        values, slopes = (
            [matrix.to(dtype) for matrix in matrices] for matrices in (self.values, self.slopes)
        )
        return SplineBasis(values, slopes, self.mixing.to(dtype))

    def _used(self, matrices: Sequence[Tensor]) -> list[AxisMatrix]:
        return [
            AxisMatrix(matrix[:, columns].contiguous())
            for matrix, columns in zip(matrices, self.columns, strict=True)
        ]


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, SplineBasis]:
    """On a grid that begins beyond the lattice and ends within it."""
    lattice = (7, 6, 5)[:ndim]
    coefficients = torch.randn(ndim, *lattice, dtype=torch.float64, generator=generator)
    values, slopes = (
        [
            torch.from_numpy(
                separable.basis(torch.linspace(-1.2, n - 1.7, n + 2), n, 3, derivative)
            )
            for n in lattice
        ]
        for derivative in (0, 1)
    )
    mixing = torch.randn(ndim, ndim, dtype=torch.float64, generator=generator)
    return coefficients, SplineBasis(values, slopes, mixing)


@operation(compiled="inrreg.ops.spline_jacobian.compiled", example=_example, nan_alike=False)
def spline_jacobian(
    coefficients: Float[Tensor, "d *lattice"], basis: SplineBasis
) -> Float[Tensor, "j c *shape"]:
    """I + Du: the derivative of component c along world axis j, plus 1 where j is c.

    Both forms are differentiable as often as asked.
    """
    d = len(coefficients)
    along_axes = torch.stack([derivative(coefficients) for derivative in basis.derivatives])
    gradient = (basis.mixing @ along_axes.flatten(1)).reshape(d, d, *basis.shape)
    identity = torch.eye(d, dtype=coefficients.dtype, device=coefficients.device)
    return gradient + identity.reshape(d, d, *[1] * d)
