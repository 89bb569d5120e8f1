"""Where a measure looks: the voxels of a mask, on one grid."""

import numpy as np
from numpy.typing import NDArray

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image


def require_grid(grid: Grid, *images: Image) -> None:
    """Refuse images on another grid, or of several channels.

    Raises:
        FrameError: an image does not lie on ``grid``.
        InputError: it has more than one channel.
    """
    for image in images:
        if not image.grid.same_as(grid):
            raise FrameError(
                f"{image.name} lies on {image.grid}, not on {grid} like what it is measured with;"
                " warp it onto that grid first"
            )
        if image.channels != 1:
            raise InputError(
                f"{image.name} has {image.channels} channels; measure one channel at a time"
            )


def selected(mask: Image | None, grid: Grid) -> NDArray[np.bool_]:
    """Voxels of ``grid`` where ``mask`` is above one half; every voxel without a mask.

    Raises:
        FrameError: the mask lies on another grid.
        InputError: the mask is empty or has more than one channel.
    """
    if mask is None:
        return np.ones(grid.shape, dtype=bool)
    require_grid(grid, mask)
    inside = mask.numpy() > 0.5
    if not inside.any():
        raise InputError(f"{mask.name} selects no voxel; a mask is 1 where it is to be used")
    return inside
