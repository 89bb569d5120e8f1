"""Squared differences between neighbouring Jacobians (Rueckert et al., IEEE TMI 1999)."""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation
from inrreg.ops.jacobian_entries import random_jacobian


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, tuple[float, ...]]:
    return random_jacobian(ndim, generator), (2.0, 3.0, 1.5)[:ndim]


@operation(compiled="inrreg.ops.bending_energy.compiled", example=_example)
def bending_energy(
    jacobian: Float[Tensor, "b *lattice d d"], spacing: tuple[float, ...]
) -> Float[Tensor, ""]:
    """Sum over lattice axes of the mean over neighbours of |difference / spacing|^2, spacing in
    mm.
    """
    total, n_entries = jacobian.new_zeros(()), jacobian.shape[-1] ** 2
    for axis, h in enumerate(spacing, start=1):
        slope = jacobian.diff(dim=axis)
        total = total + slope.square().sum() * (n_entries / (slope.numel() * h**2))
    return total
