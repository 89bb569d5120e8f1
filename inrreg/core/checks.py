"""What is wrong with the input, answered before any work starts: each check returns nothing or
raises.
"""

from collections.abc import Sequence

import torch

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, Points

SAME_PLACE_MM = 1e-3
MARGIN_VOXELS = 1.0
"""How far beyond the box of the image a landmark may lie."""


def check_intensities(image: Image) -> None:
    """Whether an image can be registered.

    Raises:
        InputError: an axis of one voxel, values that are not finite, or the same value everywhere.
    """
    if min(image.grid.shape) < 2:
        raise InputError(
            f"{image.name} has the shape {image.grid.shape}, and an axis of one voxel has no"
            " neighbours to compare; use a 2-D image for a single slice"
        )
    lowest, highest = image.data.aminmax()
    if not bool(torch.isfinite(lowest) & torch.isfinite(highest)):
        broken = int((~torch.isfinite(image.data)).sum())
        raise InputError(
            f"{image.name} holds {broken} voxels that are NaN or infinite, of {image.data.numel()};"
            " replace them, for instance by the value of air with numpy.nan_to_num"
        )
    if lowest == highest:
        raise InputError(
            f"{image.name} is {float(lowest):g} everywhere, so nothing in it can be aligned; check"
            " that it is the right file"
        )


def check_mask(mask: Image, image: Image) -> None:
    """Whether a mask (1 means "use this") lies on the grid of its image and holds anything.

    Raises:
        FrameError: another grid than the image's.
        InputError: a mask that is 0 everywhere.
    """
    if not mask.grid.same_as(image.grid, SAME_PLACE_MM):
        raise FrameError(
            f"{mask.name} lies on {mask.grid}, but {image.name} on {image.grid}; resample the mask"
            " onto the image's grid by the nearest neighbour"
        )
    if not bool((mask.data > 0).any()):
        raise InputError(
            f'{mask.name} is empty: no voxel is above 0, and 1 means "use this"; leave the mask'
            " out, or check that it is the right file"
        )


def check_landmarks(points: Points, grid: Grid, name: str) -> None:
    """Whether points lie in an image, up to one voxel beyond its box.

    Raises:
        FrameError: points of another dimension than the grid, or outside it; the message says how
            many and which.
    """
    if points.coords.shape[1] != grid.ndim:
        raise FrameError(
            f"{name} has points in {points.coords.shape[1]}-D, but its image is in {grid.ndim}-D;"
            " give every point the image's coordinates"
        )
    voxels = grid.to_voxel(points.coords)
    upper = torch.as_tensor(grid.shape, dtype=voxels.dtype, device=voxels.device) - 0.5
    outside = ((voxels < -0.5 - MARGIN_VOXELS) | (voxels > upper + MARGIN_VOXELS)).any(-1)
    if outside.any():
        first = int(outside.nonzero()[0, 0])
        raise FrameError(
            f"{name} has {int(outside.sum())} of {len(points)} points outside its image, the first"
            f" is {points.labels[first]} at {_rounded(points.coords[first].tolist())} against"
            f" {grid}; points are RAS mm here: negate x and y if the file is LPS, and check that"
            " fixed and moving are not swapped"
        )


def check_pairs(fixed: Points, moving: Points) -> None:
    """Whether two lists of points can correspond.

    Raises:
        InputError: unequal numbers of points.
        FrameError: points in 2-D with points in 3-D.
    """
    if len(fixed) != len(moving):
        raise InputError(
            f"{fixed.name} has {len(fixed)} points and {moving.name} has {len(moving)}, but each"
            " fixed point needs its moving one; remove those without a partner"
        )
    if fixed.coords.shape[1] != moving.coords.shape[1]:
        raise FrameError(
            f"{fixed.name} has points in {fixed.coords.shape[1]}-D and {moving.name} in"
            f" {moving.coords.shape[1]}-D; give both the same coordinates"
        )


def check_same_dimension(fixed: Image, moving: Image) -> None:
    """Whether both images are in 2-D or both in 3-D.

    Raises:
        FrameError: they are not.
    """
    if fixed.grid.ndim != moving.grid.ndim:
        raise FrameError(
            f"{fixed.name} is in {fixed.grid.ndim}-D and {moving.name} in {moving.grid.ndim}-D;"
            " register images of the same dimension, for instance after extracting the slice"
        )


def _rounded(position: Sequence[float]) -> list[float]:
    return [round(value, 1) for value in position]
