"""Second-order smoothness (Rueckert et al., IEEE TMI 1999)."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.errors import InputError
from inrreg.step import Step


@dataclass(frozen=True)
class Bending:
    """Mean over sites of the squared norm of all second derivatives of u, per mm^2; zero for every affine map.

    Differences of the Jacobian between neighbouring sites, so any transform will do; needs lattices of at least two sites
    an axis. The norm does not depend on the axes, so lattice axes serve as well as x, y, z where they are orthogonal.

    Raises:
        InputError: on a step of loose points.
    """

    weight: float = 1.0
    name: str = "bending"

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        if min(step.sites.lattice) < 2:
            raise InputError("the bending energy needs neighbouring sites: give its level a grid or patches as penalty_sampler, not loose points")
        return _SquaredSlopes.apply(step.jacobian, step.sites.spacing)


class _SquaredSlopes(torch.autograd.Function):
    """Sum over lattice axes of the mean over neighbours of |difference / spacing|^2, with its derivative: an entry of the Jacobian after the other, each of which stays in the cache."""

    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, spacing: tuple[float, ...]) -> Tensor:
        gradient, total = torch.empty_like(jacobian), jacobian.new_zeros(())
        for entry, derivative in zip(_entries(jacobian), _entries(gradient), strict=True):
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


def _entries(jacobian: Float[Tensor, "b *lattice d d"]) -> list[Float[Tensor, "b *lattice"]]:
    """Views of the d x d entries."""
    return [entry for row in jacobian.unbind(-2) for entry in row.unbind(-1)]
