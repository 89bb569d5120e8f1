"""First-order smoothness."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_not_negative
from inrreg.objective.step import Step


@dataclass(frozen=True)
class Diffusion:
    """Mean over sites of |Du|^2 (squared Frobenius norm, mm per mm): for u(x) = A x it is |A|^2.

    Penalises every change of length, rotations too.
    """

    weight: float = 1.0
    name: str = "diffusion"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        d = step.jacobian.shape[-1]
        return (
            (step.jacobian - torch.eye(d, dtype=step.jacobian.dtype, device=step.jacobian.device))
            .square()
            .sum((-1, -2))
            .mean()
        )
