"""Second-order smoothness (Rueckert et al., IEEE TMI 1999)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.settings_checks import check_not_negative
from inrreg.objective.step import Step
from inrreg.penalties.entries import as_jacobian, compiles, entries


@dataclass(frozen=True)
class Bending:
    """Mean over sites of the squared norm of all second derivatives of u, per mm^2; zero for every
    affine map.

    Differences of the Jacobian between neighbouring sites, so any transform will do; needs lattices
    of at least two sites an axis. The norm does not depend on the axes, so lattice axes serve as
    well as x, y, z where they are orthogonal.

    Raises:
        InputError: on a step of loose points.
    """

    weight: float = 1.0
    name: str = "bending"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        if min(step.sites.lattice) < 2:
            raise InputError(
                "the bending energy needs neighbouring sites: give its level a grid or patches as"
                " penalty_sampler, not loose points"
            )
        squared = _InOneWalk if compiles(step.jacobian) else _SquaredSlopes
        return squared.apply(step.jacobian, step.sites.spacing)


class _InOneWalk(torch.autograd.Function):
    """Sum over lattice axes of the mean over neighbours of |difference / spacing|^2, and its
    derivative, by compiled loops.
    """

    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, spacing: tuple[float, ...]) -> Tensor:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.penalties import squared_slopes

        parts, shape = entries(jacobian), jacobian.shape[1:-2]
        ctx.save_for_backward(parts)
        ctx.factors = np.array(
            [0.0] * (3 - len(shape))
            + [
                n / ((n - 1) * shape.numel() * len(jacobian) * h**2)
                for n, h in zip(shape, spacing, strict=True)
            ]
        )
        planes = _planes(parts)
        sums = np.empty(planes.shape[0] * planes.shape[1])
        in_parallel(squared_slopes, len(sums), planes.numpy(), ctx.factors, sums)
        return jacobian.new_tensor(sums.sum())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.penalties import slopes_back

        (parts,) = ctx.saved_tensors
        planes, out = _planes(parts), torch.empty_like(parts)
        in_parallel(
            slopes_back,
            planes.shape[0] * planes.shape[1],
            planes.numpy(),
            2 * float(gradient) * ctx.factors,
            _planes(out).numpy(),
        )
        return as_jacobian(out), None


def _planes(parts: Float[Tensor, "d d b *lattice"]) -> Float[Tensor, "e i j k"]:
    """Every entry of every lattice of a batch as a stack of planes: a plane is a stack of one."""
    shape = parts.shape[3:]
    return parts.view(-1, *[1] * (3 - len(shape)), *shape)


class _SquaredSlopes(torch.autograd.Function):
    """The same by torch's own operations, an entry of the Jacobian after the other."""

    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, spacing: tuple[float, ...]) -> Tensor:
        gradient, total = torch.empty_like(jacobian), jacobian.new_zeros(())
        for entry, derivative in zip(_each(jacobian), _each(gradient), strict=True):
            derivative.zero_()
            for axis, h in enumerate(spacing, start=1):
                slope = entry.diff(dim=axis)
                n, factor = slope.shape[axis], 1 / (slope.numel() * h**2)
                total += factor * slope.square().sum()
                slope *= 2 * factor
                derivative.narrow(axis, 1, n).add_(slope)
                derivative.narrow(axis, 0, n).sub_(slope)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


def _each(jacobian: Float[Tensor, "b *lattice d d"]) -> list[Float[Tensor, "b *lattice"]]:
    """Views of the d x d entries."""
    return [entry for row in jacobian.unbind(-2) for entry in row.unbind(-1)]
