"""Toy pairs: Gaussian blobs, and a C that is cut, under a smooth map whose inverse is known in
closed form; quick.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points
from inrreg.phantoms.phantom_pair import (
    PhantomPair,
    amplitude_for,
    dense_displacement,
    image_and_mask,
    oblique_grid,
)
from inrreg.phantoms.raster import coverage

_CENTER, _SPACING = (-41.5, 63.0, 17.2), (2.0, 2.5, 3.0)
_FIXED_TURN, _MOVING_TURN = (20.0, -10.0, 15.0), (12.0, -16.0, 9.0)
_ACROSS_BLOBS, _ACROSS_MASK = 0.3, 0.4
"""Half axes of the ellipsoids that hold the blob centres and the mask, over the edges of the box.
"""
_MOUTH = 0.8
"""Half the angle at which the C is open."""


@dataclass(frozen=True, eq=False)
class _Shears:
    """A translation, then along each axis in turn a shift that varies as a sine of the next
    coordinate: volume is kept, and each step is undone exactly.
    """

    center: Float[Tensor, " d"]
    translation: Float[Tensor, " d"]
    frequencies: Float[Tensor, " d"]
    phases: Float[Tensor, " d"]
    amplitude: float

    def __call__(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        moved = points + self.amplitude * self.translation
        for axis in range(moved.shape[1]):
            moved = moved + self._shift(moved, axis)
        return moved

    def inverse(self, points: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        for axis in reversed(range(points.shape[1])):
            points = points - self._shift(points, axis)
        return points - self.amplitude * self.translation

    def _shift(self, points: Tensor, axis: int) -> Tensor:
        following = (axis + 1) % points.shape[1]
        wave = torch.sin(
            self.frequencies[axis] * (points[:, following] - self.center[following])
            + self.phases[axis]
        )
        return (
            0.7
            * self.amplitude
            * wave[:, None]
            * torch.eye(points.shape[1], dtype=points.dtype)[axis]
        )


@dataclass(frozen=True, eq=False)
class _Blobs:
    """sum of weight exp(-|x - center|^2 / (2 width^2)), in the frame and state of the fixed
    image.
    """

    centers: Float[Tensor, "blobs d"]
    widths: Float[Tensor, " blobs"]
    weights: Float[Tensor, " blobs"]

    def __call__(self, points: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        distance = torch.cdist(points, self.centers, compute_mode="donot_use_mm_for_euclid_dist")
        return torch.exp(-0.5 * (distance / self.widths) ** 2) @ self.weights


def blob_pair(
    shape: Sequence[int] = (48, 40, 32),
    spacing: ArrayLike | None = None,
    shift_mm: float = 6.0,
    seed: int = 0,
    noise: float = 0.0,
    n_blobs: int = 40,
) -> PhantomPair:
    """Blobs of heights 0.4 to 1 and the same blobs moved, each evaluated at the voxel centres of
    its own oblique grid of ``shape`` voxels in 2-D or 3-D.

    ``spacing`` is in mm (2, 2.5 and 3 along the axes unless given), ``noise`` the standard
    deviation of each image's own noise. The landmarks are the blob centres; they move by
    ``shift_mm`` on average. The masks are 1 in an ellipsoid around the blobs, and in what becomes
    of it.

    Raises:
        InputError: a negative shift.
        FrameError: a shape that is neither 2-D nor 3-D.
    """
    d = len(shape)
    steps = _SPACING[:d] if spacing is None else spacing
    fixed_grid = oblique_grid(shape, steps, _CENTER[:d], _FIXED_TURN[: 2 * d - 3])
    moving_grid = oblique_grid(shape, steps, _CENTER[:d], _MOVING_TURN[: 2 * d - 3])
    rng, for_noise = np.random.default_rng(seed).spawn(2)
    blobs = _draw_blobs(fixed_grid, n_blobs, rng)
    truth = _draw_shears(fixed_grid, blobs.centers, shift_mm, rng)

    def view(grid: Grid, before: Callable[[Tensor], Tensor], name: str) -> tuple[Image, LabelImage]:
        points = before(grid.points(torch.float64).reshape(-1, d))
        values = blobs(points).reshape(grid.shape) + noise * torch.from_numpy(
            for_noise.standard_normal(grid.shape)
        )
        return image_and_mask(
            values,
            (_from_center(points, fixed_grid) < _ACROSS_MASK).reshape(grid.shape),
            grid,
            name,
        )

    fixed, fixed_mask = view(fixed_grid, torch.clone, "fixed")
    moving, moving_mask = view(moving_grid, truth.inverse, "moving")
    return PhantomPair(
        fixed,
        moving,
        fixed_mask,
        moving_mask,
        truth,
        dense_displacement(truth, fixed_grid),
        Points(blobs.centers),
        Points(truth(blobs.centers)),
    )


def cut_c_pair(
    shape: Sequence[int] = (64, 60),
    spacing: ArrayLike = (1.5, 1.6),
    shift_mm: float = 3.0,
    seed: int = 0,
) -> tuple[PhantomPair, LabelImage]:
    """The classical shapes of metamorphosis, in 2-D: moving a C; fixed the same C moved, cut open
    at its back, with a new disc in its mouth. Intensities 0 to 1.

    The second is the truth on the fixed grid: 1 where there is no counterpart, in the cut and in
    the disc. The landmarks lie along the C and move by ``shift_mm`` on average; the grids are
    turned as in ``blob_pair``, the masks are 1 everywhere.

    Raises:
        InputError: a shape that is not 2-D, or a negative shift.
    """
    if len(shape) != 2:
        raise InputError(
            f"the C is a 2-D shape, got the shape {tuple(shape)}; give two numbers of pixels"
        )
    fixed_grid = oblique_grid(shape, spacing, _CENTER[:2], _FIXED_TURN[:1])
    moving_grid = oblique_grid(shape, spacing, _CENTER[:2], _MOVING_TURN[:1])
    c = _C(torch.tensor(fixed_grid.center), 0.3 * float(fixed_grid.extent.min()))
    marks = c.along()
    truth = _draw_shears(fixed_grid, marks, shift_mm, np.random.default_rng(seed))
    still, moved = (
        fixed_grid.points(torch.float64),
        truth.inverse(moving_grid.points(torch.float64).reshape(-1, 2)).reshape(
            *moving_grid.shape, 2
        ),
    )
    fixed = coverage(torch.maximum(c.level(still), -c.cut(still))) + 0.8 * coverage(c.disc(still))
    absent = (torch.maximum(c.level(still), c.cut(still)) < 0) | (c.disc(still) < 0)
    views = [
        image_and_mask(values, torch.ones(grid.shape, dtype=torch.bool), grid, name)
        for values, grid, name in (
            (fixed, fixed_grid, "fixed"),
            (coverage(c.level(moved)), moving_grid, "moving"),
        )
    ]
    pair = PhantomPair(
        views[0][0],
        views[1][0],
        views[0][1],
        views[1][1],
        truth,
        dense_displacement(truth, fixed_grid),
        Points(marks),
        Points(truth(marks)),
    )
    return pair, LabelImage.from_array(absent.to(torch.uint8), fixed_grid, "non-correspondence")


@dataclass(frozen=True, eq=False)
class _C:
    """An arc about ``center`` of ``radius`` mm that opens along x, its cut and its disc, each as a
    level in mm: negative inside.
    """

    center: Float[Tensor, " d"]
    radius: float

    def level(self, points: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape"]:
        x, y = ((points - self.center) / self.radius).unbind(-1)
        on_arc, to_end = (
            (torch.hypot(x, y) - 1).abs(),
            torch.hypot(x - np.cos(_MOUTH), y.abs() - np.sin(_MOUTH)),
        )
        return self.radius * (torch.where(torch.atan2(y, x).abs() >= _MOUTH, on_arc, to_end) - 0.25)

    def cut(self, points: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape"]:
        x, y = ((points - self.center) / self.radius).unbind(-1)
        return self.radius * torch.maximum(y.abs() - 0.15, x)

    def disc(self, points: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape"]:
        x, y = ((points - self.center) / self.radius).unbind(-1)
        return self.radius * (torch.hypot(x - 0.9, y) - 0.22)

    def along(self) -> Float[Tensor, "n d"]:
        angles = torch.linspace(_MOUTH, 2.6, 8, dtype=torch.float64)
        angles = torch.cat([angles, -angles])
        return self.center + self.radius * torch.stack([angles.cos(), angles.sin()], -1)


def _from_center(points: Float[Tensor, "n d"], grid: Grid) -> Float[Tensor, " n"]:
    """Distance from the middle of the box, in box edges."""
    middle = grid.to_voxel(points) - (points.new_tensor(grid.shape) - 1) / 2
    return (middle / points.new_tensor(grid.shape)).norm(dim=1)


def _draw_blobs(grid: Grid, count: int, rng: np.random.Generator) -> _Blobs:
    direction = rng.standard_normal((count, grid.ndim))
    radius = _ACROSS_BLOBS * rng.uniform(0, 1, (count, 1)) ** (1 / grid.ndim)
    centers = radius * direction / np.linalg.norm(direction, axis=1, keepdims=True) * grid.extent
    widths, weights = (
        rng.uniform(0.025, 0.07, count) * grid.extent.min(),
        rng.uniform(0.4, 1, count),
    )
    return _Blobs(
        *(torch.from_numpy(a) for a in (centers @ grid.direction.T + grid.center, widths, weights))
    )


def _draw_shears(
    grid: Grid, marks: Float[Tensor, "n d"], shift_mm: float, rng: np.random.Generator
) -> _Shears:
    """Shears with wavelengths of about the box, of the amplitude that moves ``marks`` by
    ``shift_mm`` on average.
    """
    direction = rng.standard_normal(grid.ndim)
    frequencies = 2 * np.pi / (grid.extent.mean() * rng.uniform(0.9, 1.3, grid.ndim))
    phases = rng.uniform(0, 2 * np.pi, grid.ndim)
    center, translation = (
        torch.tensor(grid.center),
        torch.from_numpy(direction / np.linalg.norm(direction)),
    )
    shears = _Shears(
        center, translation, torch.from_numpy(frequencies), torch.from_numpy(phases), amplitude=1.0
    )

    def mean_motion(amplitude: float) -> float:
        return float((replace(shears, amplitude=amplitude)(marks) - marks).norm(dim=1).mean())

    return replace(
        shears, amplitude=amplitude_for(mean_motion, shift_mm, largest=max(4 * shift_mm, 1.0))
    )
