"""What lies within a distance of a mask, exactly, an axis at a time: squared distances along z first, then the least over shifts along y and x that are no longer than that distance.

Rows are whole in the inner loops, so few numbers a voxel are touched, and less than a full distance transform is found: how far what is out of reach is away nobody asks.
"""

import numpy as np
from numpy.typing import NDArray

from inrreg.kernels import compiled


@compiled
def squared_within_planes(first: int, stop: int, mask: NDArray[np.bool_], spacing: NDArray[np.float64], reach: int, squared: NDArray[np.float64]) -> None:
    """``squared`` ``[x, y, z]``: distance to ``mask`` within the plane x, mm^2, where shifts along y are no more than ``reach`` voxels; infinite where there is none."""
    high, wide = mask.shape[1], mask.shape[2]
    along = np.empty((high, wide), np.float64)
    for x in range(first, stop):
        for y in range(high):
            gap = np.inf
            for z in range(wide):
                gap = 0.0 if mask[x, y, z] else gap + 1
                along[y, z] = gap
            gap = np.inf
            for z in range(wide - 1, -1, -1):
                gap = 0.0 if mask[x, y, z] else gap + 1
                along[y, z] = (min(gap, along[y, z]) * spacing[2]) ** 2
        least_over_shifts(along, spacing[1], reach, squared[x])


@compiled
def within_distance(first: int, stop: int, squared: NDArray[np.float64], step: float, reach: int, margin: float, near: NDArray[np.float32]) -> None:
    """``near`` ``[x, sites]``: 1 where the least of ``squared`` ``[x, sites]`` plus the square of the shift along x is no more than ``margin`` squared, 0 elsewhere."""
    total = np.empty(squared.shape[1], np.float64)
    for x in range(first, stop):
        total[:] = np.inf
        for other in range(max(0, x - reach), min(len(squared), x + reach + 1)):
            added = ((other - x) * step) ** 2
            for k in range(len(total)):
                total[k] = min(total[k], squared[other, k] + added)
        for k in range(len(total)):
            near[x, k] = np.float32(np.sqrt(total[k]) <= margin)


@compiled
def least_over_shifts(rows: NDArray[np.float64], step: float, reach: int, least: NDArray[np.float64]) -> None:
    """``least[y]``: min over rows of no more than ``reach`` away of the row plus the square of how far it is."""
    for y in range(len(rows)):
        for z in range(rows.shape[1]):
            least[y, z] = rows[y, z]
        for other in range(max(0, y - reach), min(len(rows), y + reach + 1)):
            added = ((other - y) * step) ** 2
            for z in range(rows.shape[1]):
                least[y, z] = min(least[y, z], rows[other, z] + added)
