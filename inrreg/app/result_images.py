"""The images and grids that a user gives to ``Result.warp``."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.io import as_image, as_labels
from inrreg.transforms.warp import Interpolation


def image_to_warp(source: Any, grid: Grid | None, interpolation: Interpolation | None) -> Image:
    """The image of a path, a nibabel or SimpleITK image, an ``Image`` or an array on ``grid``.

    An ``Image`` or ``LabelImage`` stays what it is. Every other source is read as labels if
    ``interpolation`` is "nearest", and as intensities otherwise.

    Raises:
        InputError: an array without a grid, a grid without an array, an unknown interpolation, a
            ``LabelImage`` with another interpolation than "nearest", or a source that cannot be
            read.
        FrameError: the array does not lie on ``grid``.
    """
    if interpolation not in (None, "linear", "cubic", "nearest"):
        raise InputError(
            f"no interpolation is called {interpolation!r}; choose linear, cubic or nearest"
        )
    if isinstance(source, np.ndarray):
        source = _image_of_array(source, grid)
    elif grid is not None:
        raise InputError("`grid` is for a numpy array; this image has a grid of its own")
    elif isinstance(source, os.PathLike):
        source = Path(source)
    if isinstance(source, LabelImage) and interpolation not in (None, "nearest"):
        raise InputError(
            f"{source.name} is a label image, which {interpolation} interpolation would mix; leave"
            " `interpolation` out, or give an Image"
        )
    if isinstance(source, Image):
        return source
    return (as_labels if interpolation == "nearest" else as_image)(source, "image")


def reference_grid(reference: Any) -> Grid:
    """``reference`` itself if it is a grid, else the grid of an image or image file.

    Raises:
        InputError: anything else, or a file that cannot be read.
    """
    if isinstance(reference, Grid):
        return reference
    if isinstance(reference, Image):
        return reference.grid
    return as_image(reference, "reference").grid


def _image_of_array(array: np.ndarray, grid: Grid | None) -> Image:
    if grid is None:
        raise InputError(
            "an array has no place in the world; give `grid=`, for instance that of the moving"
            " image"
        )
    if array.shape != grid.shape:
        raise FrameError(f"an array of shape {array.shape} does not lie on {grid}")
    return Image.from_array(array, grid)
