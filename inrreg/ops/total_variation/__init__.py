"""The total variation of a displacement (Vishnevskiy et al., IEEE TMI 2017)."""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation
from inrreg.ops.jacobian_entries import random_jacobian


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, float]:
    return random_jacobian(ndim, generator), 0.05


@operation(compiled="inrreg.ops.total_variation.compiled", example=_example)
def total_variation(
    jacobian: Float[Tensor, "b *lattice d d"], smoothing: float
) -> Float[Tensor, ""]:
    """Mean over sites of sqrt(|Du|^2 + smoothing^2) - smoothing, Du = ``jacobian`` - 1."""
    d = jacobian.shape[-1]
    gradient = jacobian - torch.eye(d, dtype=jacobian.dtype, device=jacobian.device)
    return (torch.sqrt(gradient.square().sum((-1, -2)) + smoothing**2) - smoothing).mean()
