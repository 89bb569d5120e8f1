"""The Gaussian pyramid: an image at a coarser spacing."""

import numpy as np

from inrreg.core.image import Image
from inrreg.ops.separable import apply_along_axes, resampling, smoothing

LEAST_SITES = 8
"""Voxels that a pyramid level keeps along each axis, where the image has so many."""


def pyramid_level(image: Image, spacing_mm: float) -> Image:
    """``image`` at ``spacing_mm``: blurred against aliasing with sigma = sqrt(new^2 - old^2) / 2 mm
    along each axis, then resampled about its centre.

    An axis keeps at least ``LEAST_SITES`` voxels, so thin stacks and small objects do not vanish.
    An image that is coarser already is returned itself.
    """
    grid = image.grid.resampled(np.minimum(spacing_mm, image.grid.extent / LEAST_SITES).tolist())
    if grid.shape == image.grid.shape:
        return image
    sigma = 0.5 * np.sqrt(np.maximum(grid.spacing**2 - image.grid.spacing**2, 0))
    matrices = [
        down @ blur
        for down, blur in zip(
            resampling(grid, image.grid), smoothing(image.grid, sigma.tolist()), strict=True
        )
    ]
    return image.with_data(apply_along_axes(image.data, matrices), grid)
