"""A breathing chest CT with known truth.

Two images show one analytic anatomy, breathed in (fixed) and breathed out (moving).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points
from inrreg.ops.sampling import inside
from inrreg.phantoms.anatomy import BOX_MM, Thorax
from inrreg.phantoms.breathing import LARGEST_LIFT_MM, REGION_MM, Breathing
from inrreg.phantoms.phantom_pair import (
    PhantomPair,
    amplitude_for,
    dense_displacement,
    image_and_mask,
    in_parts,
    oblique_grid,
    spread_out,
)
from inrreg.phantoms.random_field import RandomField
from inrreg.phantoms.scan import Chest, scan
from inrreg.phantoms.skeleton import rib_lines, ribs
from inrreg.phantoms.vessels import PulmonaryTrees

_CENTER = np.array([-11.3, 24.7, -172.4])
"""World position of the middle of the chest: a scanner puts its origin elsewhere."""
_FIXED_TURN, _MOVING_TURN = (5.0, -3.0, 2.0), (-2.0, 3.0, 4.0)
"""Turns of the two grids in degrees: no axis of an image points along the body."""
_FIXED_SHIFT, _MOVING_SHIFT = (0.7, 1.1, -0.4), (-2.3, 0.9, 1.6)
_LARGEST_STIR_MM = 3.0
"""Random motion beyond this could fold."""
_LARGEST_UNEVEN = 0.7
"""Beyond this the tissue of the quickest regions would be crushed."""
_MARK_DEPTH_MM = 6.0
"""How far inside the lungs a landmark lies at least."""


@dataclass(frozen=True)
class _BodyFrame:
    """The map between body coordinates p and world points x: x = center + scale p.

    The scale makes the chest fill images of any size.
    """

    center: tuple[float, float, float]
    scale: float

    def to_body(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return (points - points.new_tensor(self.center)) / self.scale

    def to_world(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return points * self.scale + points.new_tensor(self.center)

    def grid(self, world: Grid) -> Grid:
        """The same voxels in body coordinates."""
        affine = world.affine.copy()
        affine[:3, 3] -= self.center
        affine[:3] /= self.scale
        return Grid(world.shape, affine)


def lung_pair(
    shape: Sequence[int] = (96, 80, 96),
    spacing: ArrayLike = 3.0,
    motion_mm: float = 20.0,
    seed: int = 0,
    noise_hu: float = 20.0,
    n_landmarks: int = 100,
    n_rib_landmarks: int = 8,
    uneven: float = 0.0,
) -> PhantomPair:
    """A chest CT breathed in (fixed) and breathed out (moving), with known truth.

    The images have ``shape`` voxels of ``spacing`` mm and hold HU. The masks are 1 in both lungs.
    The chest is scaled to fill the box. The landmarks ``lung 1`` ... are forks of vessels and move
    by ``motion_mm`` on average (about twice that at the diaphragm). The landmarks ``rib 1`` ... lie
    on ribs, which hardly move.

    The truth maps fixed world points to moving ones, in RAS mm. The lungs, the organs between them
    and the abdomen slide along the chest wall, so the map is discontinuous there, along the wall
    only. Lung tissue gets denser as its volume shrinks; vessels keep theirs. ``uneven`` (0 to 0.7)
    sets how differently the regions of the lungs empty. Segments then slip along each other, so no
    affine map and no coarse lattice describes the motion. Each image is evaluated from the anatomy
    at its own voxel centres, on its own oblique grid, with independent noise.

    Raises:
        InputError: a shape that is not 3-D, more landmarks than forks, or a motion so large that
            the chest would fold.
    """
    _check_arguments(shape, uneven)
    for_anatomy, for_trees, for_motion, for_noise, for_landmarks, for_regions = (
        np.random.default_rng(seed).spawn(6)
    )
    thorax = Thorax.draw(for_anatomy)
    chest = Chest(thorax, PulmonaryTrees.draw(thorax, for_trees), ribs(thorax))
    fixed_grid = oblique_grid(shape, spacing, _CENTER + _FIXED_SHIFT, _FIXED_TURN)
    moving_grid = oblique_grid(shape, spacing, _CENTER + _MOVING_SHIFT, _MOVING_TURN)
    frame = _BodyFrame(tuple(_CENTER.tolist()), float((fixed_grid.extent / BOX_MM).min()))
    lung_marks = spread_out(_deep_forks(chest), n_landmarks, for_landmarks)
    rib_points = _visible_rib_points(thorax, frame, fixed_grid, moving_grid)
    rib_marks = spread_out(rib_points, n_rib_landmarks, for_landmarks)
    part = 0.1 * motion_mm / frame.scale
    stirring = RandomField.draw(for_motion, length_mm=28, components=3, waves=16)
    regions = RandomField.draw(for_regions, REGION_MM, components=1, waves=48)
    resting = Breathing(thorax, 0.0, min(part, _LARGEST_STIR_MM), part, stirring, uneven, regions)
    breathing = _calibrated(resting, frame, motion_mm, lung_marks)
    truth = _Truth(frame, breathing)
    scans = _Scans(chest, frame, noise_hu, for_noise)
    fixed, fixed_mask = scans.image_and_mask(fixed_grid, breathing.at_rest(), "fixed")
    moving, moving_mask = scans.image_and_mask(moving_grid, breathing, "moving")
    fixed_landmarks = _landmarks(frame, lung_marks, rib_marks)
    return PhantomPair(
        fixed,
        moving,
        fixed_mask,
        moving_mask,
        truth,
        dense_displacement(truth, fixed_grid),
        fixed_landmarks,
        Points(truth(fixed_landmarks.coords), fixed_landmarks.labels),
    )


def _check_arguments(shape: Sequence[int], uneven: float) -> None:
    if len(shape) != 3:
        raise InputError(
            f"lung_pair makes 3-D images, got shape {tuple(shape)}; give three sizes, or use"
            " blob_pair for 2-D"
        )
    if not 0 <= uneven <= _LARGEST_UNEVEN:
        raise InputError(
            f"regions cannot empty as unevenly as {uneven:g}; give 0 (all alike) to"
            f" {_LARGEST_UNEVEN:g}"
        )


@dataclass(frozen=True, eq=False)
class _Scans:
    """Scanner of one chest; ``noise_hu`` is the standard deviation of the noise in HU."""

    chest: Chest
    frame: _BodyFrame
    noise_hu: float
    rng: np.random.Generator

    def image_and_mask(self, grid: Grid, state: Breathing, name: str) -> tuple[Image, LabelImage]:
        """The CT and the lung mask of the chest in ``state`` on the world ``grid``."""
        hu, lungs = scan(self.chest, state, self.frame.grid(grid))
        noise = self.rng.standard_normal(grid.shape, dtype=np.float32)
        return image_and_mask(hu + self.noise_hu * torch.from_numpy(noise), lungs, grid, name)


@dataclass(frozen=True, eq=False)
class _Truth:
    """The true map from fixed to moving world points, mm, in double precision."""

    frame: _BodyFrame
    breathing: Breathing

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return in_parts(self._map, points.double())

    def _map(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return self.frame.to_world(self.breathing(self.frame.to_body(points)))


def _deep_forks(chest: Chest) -> Float[Tensor, "n 3"]:
    """Forks of vessels well inside the lungs, in body coordinates."""
    forks = chest.trees.forks
    return forks[chest.thorax.lungs(forks) < -_MARK_DEPTH_MM]


def _visible_rib_points(
    thorax: Thorax, frame: _BodyFrame, fixed_grid: Grid, moving_grid: Grid
) -> Float[Tensor, "n 3"]:
    """Points of the rib centre lines inside both grids, in body coordinates."""
    points = rib_lines(thorax)[:, 4:-4].reshape(-1, 3)
    world = frame.to_world(points)
    return points[inside(fixed_grid, world) * inside(moving_grid, world) > 0]


def _landmarks(
    frame: _BodyFrame, lung_marks: Float[Tensor, "n 3"], rib_marks: Float[Tensor, "m 3"]
) -> Points:
    """The landmarks in world mm, named after their structure."""
    labels = (
        *(f"lung {i + 1}" for i in range(len(lung_marks))),
        *(f"rib {i + 1}" for i in range(len(rib_marks))),
    )
    return Points(frame.to_world(torch.cat([lung_marks, rib_marks])), labels)


def _calibrated(
    resting: Breathing, frame: _BodyFrame, motion_mm: float, marks: Float[Tensor, "n 3"]
) -> Breathing:
    """The breathing that moves ``marks`` by ``motion_mm`` on average."""

    def mean_motion(lift_mm: float) -> float:
        return frame.scale * float(
            (replace(resting, lift_mm=lift_mm)(marks) - marks).norm(dim=1).mean()
        )

    return replace(resting, lift_mm=amplitude_for(mean_motion, motion_mm, LARGEST_LIFT_MM))
