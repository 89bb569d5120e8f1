"""Points that lie far from each other, chosen one after the other (Eldar et al., IEEE TIP 1997)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inrreg.ops.dispatch import operation

_PRUNING_INTERVAL = 32
"""Choices after which the torch form drops points that have come too near to be chosen."""


def farthest_points(points: Float[Tensor, "n d"], count: int) -> Int[Tensor, " m"]:
    """Indices of ``count`` points far from each other, of all where there are fewer.

    The first is the one nearest to the centroid, each further one the farthest from those chosen.
    """
    if len(points) <= count:
        return torch.arange(len(points), device=points.device)
    middle = (points - points.mean(0)).square().sum(1).argmin()[None]
    others = points_between(points, points[middle], max(count - 1, 0), 0.0)
    return torch.cat([middle, others])[:count]


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, Tensor, int, float]:
    points = 20 * torch.rand(200, ndim, dtype=torch.float64, generator=generator)
    others = 20 * torch.rand(5, ndim, dtype=torch.float64, generator=generator)
    return points, others, 30, 1.5


@operation(compiled="inrreg.ops.farthest_points.compiled", example=_example)
def points_between(
    points: Float[Tensor, "n d"], others: Float[Tensor, "m d"], count: int, gap_mm: float
) -> Int[Tensor, " k"]:
    """Indices of up to ``count`` of ``points``, each the farthest from ``others`` and from those
    chosen before, as long as that distance is ``gap_mm`` or more; of equal ones the first.
    """
    left = torch.arange(len(points), device=points.device)
    if len(points) == 0:
        return left
    distances = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distances.amin(1).nan_to_num(
        nan=-1.0
    )  # a point that is not a number is never chosen
    chosen = list[Tensor]()
    while len(chosen) < count:
        if gap_mm > 0 and len(chosen) % _PRUNING_INTERVAL == 0:
            far = distance >= gap_mm
            left, points, distance = left[far], points[far], distance[far]
            if len(left) == 0:
                break
        farthest, index = distance.max(0)
        if gap_mm > 0 and farthest < gap_mm:
            break
        chosen.append(left[index])
        distance = torch.fmin(distance, (points - points[index]).norm(dim=1))
    return torch.stack(chosen) if chosen else left[:0]
