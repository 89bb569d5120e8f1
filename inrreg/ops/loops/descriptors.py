"""What makes a descriptor of patch distances: their least taken off, and each over their mean."""

import numpy as np
from numpy.typing import NDArray

from inrreg.ops.loops import compiled


@compiled
def above_least(
    first: int, stop: int, distance: NDArray[np.floating], mean: NDArray[np.floating]
) -> None:
    """``distance`` ``[c, x, sites]`` less the least of its channels at each site, NaN where one is,
    and the ``mean`` ``[x, sites]`` of what is left.
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
