"""Inverse consistency: the distance between a point and its image under forward and backward map.

Reference: Christensen and Johnson, IEEE TMI 2001.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import FrameError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, Points
from inrreg.evaluation.distance_statistics import DistanceStatistics, distance_statistics
from inrreg.evaluation.region import selected
from inrreg.transforms.base import CHUNK, Transform


@torch.no_grad()
def inverse_consistency(
    forward: Transform, backward: Transform, points: Points
) -> DistanceStatistics:
    """|B(F(x)) - x| in mm over fixed world ``points``, with F from fixed to moving and B back.

    Raises:
        FrameError: transforms and points are not all 2-D or all 3-D.
        InputError: no point.
    """
    _check(forward, backward, points.coords.shape[-1])
    coords = points.coords.to(forward.device)
    return distance_statistics(_round_trip(backward, coords, forward.displacement(coords)))


@torch.no_grad()
def inverse_consistency_on(
    forward: Transform, backward: Transform, grid: Grid, mask: Image | None = None
) -> DistanceStatistics:
    """|B(F(x)) - x| in mm over the voxel centres of the fixed ``grid`` where ``mask`` is 1.

    Without a mask all voxels count. B is evaluated only where they are mapped to.

    Raises:
        FrameError: transforms and grid are not all 2-D or all 3-D, or the mask lies on another
            grid.
        InputError: an empty mask.
    """
    _check(forward, backward, grid.ndim)
    inside = torch.as_tensor(selected(mask, grid), device=forward.device)
    points, displacement = (
        grid.points(device=forward.device)[inside],
        forward.displacement_on(grid)[inside],
    )
    return distance_statistics(
        torch.cat(
            [
                _round_trip(backward, x, u)
                for x, u in zip(points.split(CHUNK), displacement.split(CHUNK), strict=True)
            ]
        )
    )


def _round_trip(
    backward: Transform, points: Float[Tensor, "n d"], displacement: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """The two displacements are added, which stays precise far from the world origin."""
    return (displacement + backward.displacement(points + displacement)).norm(dim=-1)


def _check(forward: Transform, backward: Transform, ndim: int) -> None:
    if not forward.ndim == backward.ndim == ndim:
        raise FrameError(
            f"the transforms are {forward.ndim}-D and {backward.ndim}-D, where they are compared is"
            f" {ndim}-D; give all the same dimension"
        )
