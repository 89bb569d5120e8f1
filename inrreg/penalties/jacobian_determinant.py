"""Penalties on the Jacobian determinant: volume change and folding."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_above_zero, check_not_negative
from inrreg.objective.step import Step
from inrreg.ops.determinants import determinants
from inrreg.ops.jacobian_entries import as_jacobian
from inrreg.ops.small_matrices import determinant


@dataclass(frozen=True)
class LogJacobian:
    """Mean over sites of (log det J)^2, symmetric in growth and shrinkage; below ``least`` the
    logarithm continues as a line, so folds are pushed back too.
    """

    weight: float = 1.0
    least: float = 0.05
    name: str = "log_jacobian"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")
        check_above_zero(self, "least")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        det = determinant(step.jacobian)
        held = det.clamp(min=self.least)
        return (held.log() + (det - held) / self.least).square().mean()


@dataclass(frozen=True)
class Folding:
    """Mean over sites of (max(0, least - det J) / least)^2: nothing until the volume shrinks below
    ``least``, 1 at a fold.
    """

    weight: float = 1.0
    least: float = 0.2
    name: str = "folding"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight", "least")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        # few sites or none: the others have no derivative, and none is computed
        below = determinants(step.jacobian) < self.least
        if not bool(below.any()):
            return step.jacobian.new_zeros(())
        return (
            (self.least - determinant(_Chosen.apply(step.jacobian, below))) / self.least
        ).square().sum() / below.numel()


class _Chosen(torch.autograd.Function):
    """The matrices at some sites; the gradient comes back with each entry in one piece, as that of
    the other penalties does.
    """

    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        return jacobian[where]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (where,), (d, _) = ctx.saved_tensors, gradient.shape[-2:]
        scattered = gradient.new_zeros(d, d, where.numel()).index_copy(
            2, where.reshape(-1).nonzero()[:, 0], gradient.movedim((-1, -2), (0, 1))
        )
        return as_jacobian(scattered.reshape(d, d, *where.shape)), None
