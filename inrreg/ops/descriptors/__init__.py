"""From patch distances to the exponents of a descriptor (Heinrich et al., Medical Image Analysis
2012), in place.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import operation


def _distance(ndim: int, generator: torch.Generator) -> tuple[Tensor]:
    shape = (9, 13) if ndim == 2 else (5, 7, 6)
    return (torch.rand(4, *shape, dtype=torch.float64, generator=generator),)


def _distance_and_divisor(ndim: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    (distance,) = _distance(ndim, generator)
    divisor = torch.rand(distance.shape[1:], dtype=torch.float64, generator=generator)
    return distance, divisor + 0.1


@operation(compiled="inrreg.ops.descriptors.compiled", example=_distance)
@torch.no_grad()
def subtract_least(distance: Float[Tensor, "c *shape"]) -> Float[Tensor, "*shape"]:
    """Subtract from ``distance``, in place, the least of its channels at each site, NaN where one
    is; the mean over channels of the differences is returned. No gradient.
    """
    distance -= distance.amin(0, keepdim=True)
    return distance.mean(0)


@operation(compiled="inrreg.ops.descriptors.compiled", example=_distance_and_divisor)
@torch.no_grad()
def negate_ratio(distance: Float[Tensor, "c *shape"], divisor: Float[Tensor, "*shape"]) -> None:
    """Replace ``distance`` by - distance / divisor, in place. No gradient."""
    distance.div_(divisor).neg_()
