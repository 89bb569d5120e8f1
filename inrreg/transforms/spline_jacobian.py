"""The Jacobian of a spline on a grid, all entries in one walk: on a CPU, by compiled loops."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.banded import AxisMatrix, span


class Slopes:
    """Coefficients ``[d, *lattice]`` -> I + Du ``[j, c, *shape]``, derivatives along the world's
    axes first, for matrices that are asked for more than once.

    ``values`` are the bases of the axes, ``slopes`` their derivatives by mm along the axis, ``[out,
    in]``; ``mixing[j, a]`` is the part of axis a in world axis j.
    """

    def __init__(
        self, values: Sequence[Tensor], slopes: Sequence[Tensor], mixing: Float[Tensor, "d d"]
    ) -> None:
        self.lattice, spans = (
            [matrix.shape[1] for matrix in values],
            [span(matrix) for matrix in values],
        )
        self.used = (slice(None), *[slice(*ends) for ends in spans])
        missing = 3 - len(values)  # a plane is a stack of one plane
        self.values = [AxisMatrix(mixing.new_ones(1, 1))] * missing + [
            AxisMatrix(matrix[:, slice(*ends)].contiguous())
            for matrix, ends in zip(values, spans, strict=True)
        ]
        self.slopes = [AxisMatrix(mixing.new_zeros(1, 1))] * missing + [
            AxisMatrix(matrix[:, slice(*ends)].contiguous())
            for matrix, ends in zip(slopes, spans, strict=True)
        ]
        self.mixing = torch.cat([mixing.new_zeros(len(mixing), missing), mixing], 1)
        self.shape = [len(matrix) for matrix in values]

    def __call__(self, coefficients: Float[Tensor, "d *lattice"]) -> Float[Tensor, "j c *shape"]:
        """Differentiable as often as asked."""
        return _Rendered.apply(coefficients, self)

    def rendered(self, coefficients: Float[Tensor, "d *lattice"]) -> Float[Tensor, "j c *shape"]:
        """The Jacobian, without its graph."""
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.slopes import render_slopes

        used = (
            coefficients.detach()[self.used]
            .contiguous()
            .reshape(len(coefficients), *[matrix.dense.shape[1] for matrix in self.values])
        )
        valued, sloped = (used @ matrix.dense.T for matrix in (self.values[2], self.slopes[2]))
        out = used.new_empty(
            len(self.mixing), len(used), *[len(matrix.dense) for matrix in self.values]
        )
        bands = [
            (matrix.bands.first, matrix.bands.weights)
            for axis in (0, 1)
            for matrix in (self.values[axis], self.slopes[axis])
        ]
        in_parallel(
            render_slopes,
            len(used) * len(self.values[0].dense),
            valued.numpy(),
            sloped.numpy(),
            *bands,
            self.mixing.numpy(),
            out.numpy(),
        )
        return out.reshape(len(out), len(used), *self.shape)

    def gathered(self, gradient: Float[Tensor, "j c *shape"]) -> Float[Tensor, "d *lattice"]:
        """The adjoint of what is linear in ``rendered``, without its graph."""
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.slopes import gather_planes, gather_slopes

        channels, (n_0, n_1, _), (m_0, m_1, length) = (
            gradient.shape[1],
            [m.dense.shape[1] for m in self.values],
            [len(m.dense) for m in self.values],
        )
        given = gradient.detach().reshape(*gradient.shape[:2], m_0, m_1, length).contiguous()
        first, second = [
            [
                (m.transposed.bands.first, m.transposed.bands.weights)
                for m in (self.values[axis], self.slopes[axis])
            ]
            for axis in (0, 1)
        ]
        between = given.new_empty(3, channels, m_0, n_1 * length)
        in_parallel(
            gather_slopes,
            channels * m_0,
            given.numpy(),
            self.mixing.numpy(),
            *second,
            between.view(3, channels, m_0, n_1, length).numpy(),
        )
        valued, sloped = given.new_empty(2, channels, n_0, n_1 * length)
        in_parallel(
            gather_planes, channels * n_0, between.numpy(), *first, valued.numpy(), sloped.numpy()
        )
        at_knots = [
            part.view(channels, n_0, n_1, length) @ matrix.dense
            for part, matrix in ((valued, self.values[2]), (sloped, self.slopes[2]))
        ]
        out = given.new_zeros(channels, *self.lattice)
        used = out[self.used]
        used.copy_(torch.add(*at_knots).reshape(used.shape))
        return out


class _Rendered(torch.autograd.Function):
    """Affine in the coefficients: the derivative is the map less its value at nothing."""

    @staticmethod
    def forward(coefficients: Tensor, slopes: Slopes) -> Tensor:
        return slopes.rendered(coefficients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.slopes = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gathered.apply(gradient, ctx.slopes), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _linear(tangent, ctx.slopes)


class _Gathered(torch.autograd.Function):
    """The adjoint of ``_Rendered``'s derivative, which is its own adjoint's."""

    @staticmethod
    def forward(gradient: Tensor, slopes: Slopes) -> Tensor:
        return slopes.gathered(gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.slopes = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _linear(gradient, ctx.slopes), None


def _linear(coefficients: Tensor, slopes: Slopes) -> Tensor:
    d = len(coefficients)
    identity = torch.eye(d, dtype=coefficients.dtype).reshape(d, d, *[1] * len(slopes.shape))
    return _Rendered.apply(coefficients, slopes) - identity
