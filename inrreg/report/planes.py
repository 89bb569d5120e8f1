"""Slices of a volume as a reader expects to see them: axial, coronal and sagittal, in the
radiological convention.

The patient's right is on the left of the screen, anterior and superior are up, and in the sagittal
plane anterior is on the
left: along every screen axis the RAS coordinate falls from left to right and from top to bottom.
Planes follow the index axes, so an oblique grid is shown as it was scanned and the letters at the
borders say how it lies.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from inrreg.core.errors import FrameError
from inrreg.core.grid import Grid
from inrreg.core.image import Image

LETTERS = ("LR", "PA", "IS")
"""The two ends of each world axis, negative first."""

PIXELS = {2: 640, 3: 320}
"""Longest side of a slice as it is shown, by dimension: enough for the eye, and it keeps a page
small.
"""

SCREEN_AXES = {2: {"plane": (0, 1)}, 3: {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}}
"""Which world axes run along the columns and the rows of each plane, by dimension."""


@dataclass(frozen=True, eq=False)
class Plane:
    """A slice of ``grid`` through the voxel ``through``; ``axes`` are the index axes along the
    columns and the rows, ``steps`` their direction (1 or -1).
    """

    name: str
    grid: Grid
    through: tuple[int, ...]
    axes: tuple[int, int]
    steps: tuple[int, int]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the slice."""
        width, height = (float(self.grid.extent[a]) for a in self.axes)
        return width, height

    @property
    def directions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """World unit vectors to the right and down the screen."""
        right, down = (
            step * self.grid.direction[:, a] for a, step in zip(self.axes, self.steps, strict=True)
        )
        return right, down

    @property
    def letters(self) -> dict[str, str]:
        """The anatomical letters at the ``left``, ``right``, ``top`` and ``bottom`` border."""
        right, down = self.directions
        return {
            "left": anatomical(-right),
            "right": anatomical(right),
            "top": anatomical(-down),
            "bottom": anatomical(down),
        }

    def slice(self, volume: NDArray) -> NDArray:
        """``[*shape, ...]`` -> ``[rows, columns, ...]``."""
        columns, rows = self.axes
        kept = volume[
            tuple(slice(None) if a in self.axes else i for a, i in enumerate(self.through))
        ]
        image = kept if rows < columns else kept.swapaxes(0, 1)
        return image[:: self.steps[1], :: self.steps[0]]

    def pixels(self, volume: NDArray, reduce: Callable[..., NDArray] = np.mean) -> NDArray:
        """The slice with blocks of voxels reduced to one pixel where it is larger than
        ``PIXELS``.
        """
        image = self.slice(volume)
        factor = -(-max(image.shape[:2]) // PIXELS[self.grid.ndim])
        if factor == 1:
            return image
        padding = [(0, -n % factor) for n in image.shape[:2]] + [(0, 0)] * (image.ndim - 2)
        padded = np.pad(image, padding, mode="edge")
        blocks = padded.reshape(
            padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, *image.shape[2:]
        )
        return reduce(blocks, axis=(1, 3))

    def pixel_extent(self, pixels: NDArray) -> tuple[float, float, float, float]:
        """Left, right, bottom and top of ``pixels`` in mm from the upper left corner of the slice,
        as matplotlib asks for it.
        """
        factor = -(-max(self.grid.shape[a] for a in self.axes) // PIXELS[self.grid.ndim])
        width, height = (
            n * factor * float(self.grid.spacing[a])
            for n, a in zip(pixels.shape[1::-1], self.axes, strict=True)
        )
        return 0.0, width, height, 0.0


def planes_of(grid: Grid, at: ArrayLike | None = None) -> list[Plane]:
    """The orthogonal planes of ``grid`` through the world point ``at`` (mm; the middle of the grid
    unless given): three, or one in 2-D.
    """
    point = np.asarray(grid.center if at is None else at, dtype=float)
    if point.shape != (grid.ndim,):
        raise FrameError(
            f"`at` must be one world point of {grid.ndim} coordinates in mm, got shape"
            f" {point.shape}"
        )
    voxel = grid.to_voxel(torch.as_tensor(point)[None])[0].round().long()
    through = tuple(int(min(max(v, 0), n - 1)) for v, n in zip(voxel, grid.shape, strict=True))
    nearest = nibabel.orientations.io_orientation(grid.affine)
    index_axis = {int(world): axis for axis, (world, _) in enumerate(nearest)}
    step = {int(world): -int(sign) for world, sign in nearest}
    return [
        Plane(name, grid, through, (index_axis[c], index_axis[r]), (step[c], step[r]))
        for name, (c, r) in SCREEN_AXES[grid.ndim].items()
    ]


def middle_of(grid: Grid, mask: Image | None) -> NDArray[np.float64]:
    """Where to cut: the centre of gravity of ``mask`` (1 = use this), of the grid if there is no
    mask or nothing in it.
    """
    inside = region(mask, grid).nonzero()
    if mask is None or not len(inside[0]):
        return grid.center
    return grid.matrix @ np.array([axis.mean() for axis in inside]) + grid.origin


def region(mask: Image | None, grid: Grid) -> NDArray[np.bool_]:
    """``mask`` as a boolean array on ``grid``; true everywhere without a mask.

    Raises:
        FrameError: the mask lies on another grid.
    """
    if mask is None:
        return np.ones(grid.shape, dtype=bool)
    if not mask.grid.same_as(grid):
        raise FrameError(
            f"{mask.name}: a mask for the report must lie on the fixed grid {grid}, it lies on"
            f" {mask.grid}; resample it first"
        )
    return mask.data[0].detach().cpu().numpy() > 0.5


def anatomical(direction: Sequence[float] | NDArray[np.float64]) -> str:
    """The letters of the world axes a direction points along, nearest first; an axis more than 70
    degrees away is left out.
    """
    order = np.argsort(-np.abs(direction))
    return "".join(
        LETTERS[axis][int(direction[axis] > 0)]
        for axis in order
        if axis == order[0] or abs(direction[axis]) > np.cos(np.radians(70))
    )
