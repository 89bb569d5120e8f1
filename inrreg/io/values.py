"""What every image format shares: which arrays are images, and in which type they are stored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage

INTEGER_TOLERANCE = 1e-3
"""Labels stored with a scale factor come back this close to whole numbers."""
LARGEST_EXACT_FLOAT = 2**53
"""Integers up to here are exact in double precision."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One real number a voxel as a file or another library holds it, in its own array type, placed
    in RAS mm; ``name`` appears in messages.
    """

    array: np.ndarray
    grid: Grid
    name: str

    def image(self) -> Image:
        """The values as intensities."""
        return Image.from_array(self.array, self.grid, self.name)

    def labels(self) -> LabelImage:
        """The values as labels.

        Raises:
            InputError: values that are no whole numbers, or beyond 32 bits.
        """
        check_labels(self.array, self.name)
        return LabelImage.from_array(self.array, self.grid, self.name)


def spatial_shape(shape: Sequence[int], name: str) -> tuple[int, ...]:
    """The two or three spatial axes of a stored array, trailing axes of length one dropped.

    Raises:
        InputError: several volumes, fewer than two axes, or an axis of one voxel.
    """
    volumes = int(np.prod(shape[3:], dtype=int))
    if volumes != 1:
        raise InputError(
            f"{name} holds {volumes} volumes (shape {tuple(shape)}), and a registration takes one;"
            " extract it first, for instance with nibabel's `four_to_three`"
        )
    spatial = tuple(int(n) for n in shape[:3])
    if len(spatial) < 2 or min(spatial) < 2:
        raise InputError(
            f"{name} has shape {spatial}, and images here have two or three axes of at least two"
            " voxels; store a single slice as a 2-D image"
        )
    return spatial


def check_scalar(dtype: np.dtype, name: str) -> None:
    """Refuse colour and complex values.

    Raises:
        InputError: anything but one real number a voxel.
    """
    if dtype.kind not in "biuf":
        raise InputError(
            f"{name} stores {dtype} a voxel, and an image here has one real number a voxel; convert"
            " colour to grey, complex values to magnitude"
        )


def grid_of(shape: Sequence[int], affine: NDArray[np.float64], name: str) -> Grid:
    """The grid of a file's header.

    Raises:
        FrameError: a singular or non-finite affine; the message names the file.
    """
    try:
        return Grid(tuple(shape), affine)
    except FrameError as error:
        raise FrameError(f"{name}: {error}") from error


def check_labels(array: np.ndarray, name: str) -> None:
    """Refuse values that would change if they were taken as labels.

    Raises:
        InputError: values that are no whole numbers, or beyond 32 bits.
    """
    if array.dtype.kind in "iu" and array.dtype.itemsize < 4:
        return
    broken = ~(
        np.isfinite(array) & np.isclose(array, np.rint(array), rtol=0, atol=INTEGER_TOLERANCE)
    )
    if broken.any():
        raise InputError(
            f"{name} is no label image: {int(broken.sum())} voxels hold values such as"
            f" {array[broken][0]:.4g}; round or threshold it first"
        )
    if np.abs(array).max() > np.iinfo(np.int32).max:
        raise InputError(
            f"{name} has labels beyond 32 bits, such as {np.abs(array).max()}; renumber them"
        )


def stored_type(dtype: np.dtype) -> np.dtype:
    """The array type that files know for ``dtype``: native byte order, no booleans, floats of 32 or
    64 bits.
    """
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind == "f":
        return np.dtype(np.float32 if dtype.itemsize <= 4 else np.float64)
    return dtype.newbyteorder("=")


def stored_values(image: Image) -> np.ndarray:
    """The values of a one-channel image in the type it came in, rounded and clipped where that is
    an integer.

    Raises:
        InputError: several channels, or values that are not finite and have no integer.
    """
    if image.channels != 1:
        raise InputError(
            f"{image.name} has {image.channels} channels, and a file holds one; write them one"
            " by one"
        )
    values, dtype = image.numpy(), stored_type(image.dtype)
    if dtype.kind == "f":
        return values.astype(dtype)
    if not np.isfinite(values).all():
        raise InputError(
            f"{image.name} holds NaN or infinite values, which {dtype} cannot store; replace them,"
            " or give the image the dtype float32"
        )
    bounds = np.iinfo(dtype)
    return (
        np.rint(values.astype(np.float64))
        .clip(max(bounds.min, -LARGEST_EXACT_FLOAT), min(bounds.max, LARGEST_EXACT_FLOAT))
        .astype(dtype)
    )
