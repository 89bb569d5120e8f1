"""The compiled form of ``channel_sums``."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.dispatch import as_volume
from inrreg.ops.loops import compiled, in_parallel

Array = Any


@compiled
def weighted_sums(first: int, stop: int, values: Array, weight: Array, totals: Array) -> None:
    """``totals[i]`` are the sums of the weight, of weight times value and of weight times value
    squared over planes ``first`` to ``stop``.
    """
    for i in range(first, stop):
        weights, first_moment, second_moment = 0.0, 0.0, 0.0
        for j in range(values.shape[1]):
            w, v = weight[i, j], values[i, j]
            for k in range(w.size):
                product = np.float64(w[k]) * v[k]
                weights, first_moment, second_moment = (
                    weights + w[k],
                    first_moment + product,
                    second_moment + product * v[k],
                )
        totals[i, 0], totals[i, 1], totals[i, 2] = weights, first_moment, second_moment


def channel_sums(
    values: Float[Tensor, "b c *lattice"], weight: Float[Tensor, "b 1 *lattice"]
) -> Float[Tensor, "c 3"]:
    """See ``inrreg.ops.channel_sums.channel_sums``."""
    images, weights = (
        as_volume(each.detach(), each.ndim - 2).contiguous().numpy() for each in (values, weight)
    )
    sums = np.zeros((*images.shape[:3], 3))
    for b, c in np.ndindex(images.shape[:2]):
        in_parallel(weighted_sums, images.shape[2], images[b, c], weights[b, 0], sums[b, c])
    return torch.from_numpy(sums.sum((0, 2)))
