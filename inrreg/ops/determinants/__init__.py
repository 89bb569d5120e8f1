"""The determinants of many Jacobians, without a gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation
from inrreg.ops.jacobian_entries import random_jacobian
from inrreg.ops.small_matrices import determinant


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor]:
    return (random_jacobian(ndim, generator),)


@operation(compiled="inrreg.ops.determinants.compiled", example=_example)
@torch.no_grad()
def determinants(jacobian: Float[Tensor, "b *lattice d d"]) -> Float[Tensor, "b *lattice"]:
    """det of each; ``inrreg.ops.small_matrices.determinant`` is the differentiable one."""
    return determinant(jacobian)
