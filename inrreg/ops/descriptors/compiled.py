"""The compiled forms of ``subtract_least`` and ``negate_ratio``."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.loops import compiled, in_parallel


@compiled
def above_least(
    first: int, stop: int, distance: NDArray[np.floating], mean: NDArray[np.floating]
) -> None:
    """Subtract from ``distance`` ``[c, x, sites]`` the least of its channels at each site, NaN
    where one is; write the ``mean`` ``[x, sites]`` of the differences.
    """
    least = np.empty(distance.shape[2], distance.dtype)
    for x in range(first, stop):
        for k in range(len(least)):
            least[k] = distance[0, x, k]
            mean[x, k] = 0
        for c in range(1, len(distance)):
            for k in range(len(least)):
                value = distance[c, x, k]
                least[k] = value if value < least[k] or value != value else least[k]
        for c in range(len(distance)):
            for k in range(len(least)):
                distance[c, x, k] -= least[k]
                mean[x, k] += distance[c, x, k]
        for k in range(len(least)):
            mean[x, k] /= len(distance)


@compiled
def negative_share(
    first: int, stop: int, distance: NDArray[np.floating], of: NDArray[np.floating]
) -> None:
    """``distance`` ``[c, x, sites]`` becomes - distance / of."""
    inverse = np.empty(distance.shape[2], distance.dtype)
    for x in range(first, stop):
        for k in range(len(inverse)):
            inverse[k] = -1 / of[x, k]
        for c in range(len(distance)):
            for k in range(len(inverse)):
                distance[c, x, k] *= inverse[k]


def subtract_least(distance: Float[Tensor, "c *shape"]) -> Float[Tensor, "*shape"]:
    """See ``inrreg.ops.descriptors.subtract_least``; a tensor in one piece is not copied."""
    mean = distance.new_empty(distance.shape[1:])
    with _layers(distance) as layers:
        in_parallel(above_least, len(mean), layers, mean.view(len(mean), -1).numpy())
    return mean


def negate_ratio(distance: Float[Tensor, "c *shape"], divisor: Float[Tensor, "*shape"]) -> None:
    """See ``inrreg.ops.descriptors.negate_ratio``; a tensor in one piece is not copied."""
    below = divisor.detach().contiguous().view(len(divisor), -1).numpy()
    with _layers(distance) as layers:
        in_parallel(negative_share, len(below), layers, below)


@contextmanager
def _layers(distance: Float[Tensor, "c *shape"]) -> Iterator[Float[np.ndarray, "c x sites"]]:
    """To be changed in place, as ``distance`` then is."""
    solid = distance.detach().contiguous()
    yield solid.view(*distance.shape[:2], -1).numpy()
    if solid.data_ptr() != distance.data_ptr():
        distance.detach().copy_(solid)
