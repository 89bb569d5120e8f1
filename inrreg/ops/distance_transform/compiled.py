"""The compiled form of ``distance_within``: squared distances, an axis at a time.

Distances beyond ``reach`` are all the same, so along each axis only the neighbours within it are
looked at: whole rows at once. An exact transform without a limit has to walk the lower envelope of
parabolas voxel by voxel.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.dispatch import as_volume, in_three
from inrreg.ops.loops import compiled, in_parallel


@compiled
def along_rows(
    start: int, stop: int, members: NDArray, step: float, reach: float, out: NDArray
) -> None:
    """``out[p, k]`` = squared distance in the row to the nearest k where ``members[p, k]``, at most
    ``reach`` squared; samples are ``step`` apart.
    """
    n = members.shape[1]
    for p in range(start, stop):
        member, target = members[p], out[p]
        far = reach
        for k in range(n):
            far = 0.0 if member[k] else min(far + step, reach)
            target[k] = far
        far = reach
        for k in range(n - 1, -1, -1):
            far = 0.0 if member[k] else min(far + step, reach)
            target[k] = min(far, target[k]) ** 2


@compiled
def across_rows(
    start: int,
    stop: int,
    squares: NDArray,
    rows: int,
    between_parts: int,
    between_rows: int,
    step: float,
    reach: float,
    out: NDArray,
) -> None:
    """The least of ``squares`` + (s ``step``)^2 over shifts by s rows within ``reach``; ``[row,
    k]``, row m of part p is number p ``between_parts`` + m ``between_rows``.
    """
    for p in range(start, stop):
        first = p * between_parts
        for m in range(rows):
            target, here = out[first + m * between_rows], squares[first + m * between_rows]
            for k in range(len(target)):
                target[k] = here[k]
            shift = 1
            while shift * step < reach and (m - shift >= 0 or m + shift < rows):
                far = (shift * step) ** 2
                # the last row stands for those beyond the end: it is nearer than ``far`` says, so
                # this is never less than its true distance
                before, after = max(m - shift, 0), min(m + shift, rows - 1)
                above, below = (
                    squares[first + before * between_rows],
                    squares[first + after * between_rows],
                )
                for k in range(len(target)):
                    target[k] = min(target[k], min(above[k], below[k]) + far)
                shift += 1


def distance_within(
    reach_mm: float, members: Bool[Tensor, "*shape"], spacing: Sequence[float] | NDArray[np.float64]
) -> Float[Tensor, "*shape"]:
    """See ``inrreg.ops.distance_transform.distance_within``."""
    volume = as_volume(members, members.ndim).contiguous().numpy()
    planes, rows, n = volume.shape
    steps, reach = in_three([float(step) for step in spacing], members.ndim), float(reach_mm)
    squares, between = np.empty((planes * rows, n)), np.empty((planes * rows, n))
    in_parallel(along_rows, planes * rows, volume.reshape(-1, n), steps[2], reach, squares)
    in_parallel(across_rows, planes, squares, rows, rows, 1, steps[1], reach, between)
    in_parallel(across_rows, rows, between, planes, 1, rows, steps[0], reach, squares)
    return torch.from_numpy(np.sqrt(squares, out=squares).reshape(members.shape))
