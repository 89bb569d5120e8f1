"""The compiled form of ``points_between``, and its loops."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from inrreg.ops.loops import compiled

Array = Any
LANES = 64
"""So many running maxima are kept side by side, so that whole vectors are compared."""


@compiled
def come_nearer(points: Array, others: Array, m: int, squares: Array) -> None:
    """``squares`` ``[n]``: the least of what they were and of the squared distances of ``points``
    ``[3, n]`` to number ``m`` of ``others``.
    """
    a, b, c = others[0, m], others[1, m], others[2, m]
    for k in range(np.uint64(len(squares))):
        x, y, z = points[0, k] - a, points[1, k] - b, points[2, k] - c
        square = x * x + y * y + z * z
        # so written, the distance of a point that is not a number is none, and it is never chosen
        squares[k] = squares[k] if square >= squares[k] else square


@compiled
def largest(values: Array) -> int:
    """The first place of the largest of ``values``, none below 0."""
    lanes, n = np.zeros(LANES, values.dtype), len(values)
    for start in range(np.uint64(0), np.uint64(n - n % LANES), np.uint64(LANES)):
        for lane in range(np.uint64(LANES)):
            value = values[start + lane]
            lanes[lane] = value if value > lanes[lane] else lanes[lane]
    most = lanes.max()
    for k in range(n - n % LANES, n):
        most = max(most, values[k])
    for k in range(n):
        if values[k] == most:
            return k
    return 0


@compiled
def choose_farthest(points: Array, others: Array, least: float, chosen: Array) -> int:
    """Into ``chosen``, as many as it has room for, the numbers of ``points`` ``[3, n]`` farthest
    from ``others`` ``[3, m]`` and from those chosen; ends, and says after how many, where none is
    ``least`` or more away.
    """
    squares = np.full(points.shape[1], np.inf, points.dtype)
    for m in range(others.shape[1]):
        come_nearer(points, others, m, squares)
    for number in range(len(chosen)):
        farthest = largest(squares)
        if np.sqrt(squares[farthest]) < least:
            return number
        chosen[number] = farthest
        come_nearer(points, points, farthest, squares)
    return len(chosen)


def points_between(
    points: Float[Tensor, "n d"], others: Float[Tensor, "m d"], count: int, gap_mm: float
) -> Int[Tensor, " k"]:
    """See ``inrreg.ops.farthest_points.points_between``."""
    chosen = np.empty(min(count, len(points)), np.int64)
    third = (0, 3 - points.shape[1])  # points in a plane lie in one layer
    columns = (
        F.pad(each.detach(), third).T.contiguous().numpy()
        for each in (points, others.to(points.dtype))
    )
    number = choose_farthest(*columns, gap_mm, chosen) if len(points) else 0
    return torch.from_numpy(chosen[:number])
