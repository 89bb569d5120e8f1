"""Weighted sums of each channel of a batch of lattices."""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shape = (9, 13) if ndim == 2 else (5, 7, 6)
    values = torch.randn(2, 3, *shape, dtype=torch.float64, generator=generator)
    return values, torch.rand(2, 1, *shape, dtype=torch.float64, generator=generator)


@operation(compiled="inrreg.ops.channel_sums.compiled", example=_example)
@torch.no_grad()
def channel_sums(
    values: Float[Tensor, "b c *lattice"], weight: Float[Tensor, "b 1 *lattice"]
) -> Float[Tensor, "c 3"]:
    """Sums of the weight, of weight times value and of weight times value squared of each channel,
    in double precision. No gradient.
    """
    terms = (
        weight.double() * torch.stack([torch.ones_like(values), values, values.square()]).double()
    )
    return terms.transpose(0, 2).flatten(3).sum((1, 3))
