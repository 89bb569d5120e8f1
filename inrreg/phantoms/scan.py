"""What a scanner sees of a chest in one state of breathing: HU at the voxel centres of a grid,
painted organ over organ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.phantoms.anatomy import Thorax
from inrreg.phantoms.breathing import Breathing
from inrreg.phantoms.phantom_pair import in_parts
from inrreg.phantoms.raster import Tubes, coverage, tube_coverage
from inrreg.phantoms.skeleton import spine, spine_hu, sternum
from inrreg.phantoms.vessels import PulmonaryTrees

_AIR = -1000.0
_FAT = -95.0
_BLOOD = 45.0
_MARROW = 180.0
_BONE = 520.0
_SHEET = 20.0
"""HU of what has one value; ``_SHEET`` is that of fissures and airway walls."""
_FISSURE_MM = 0.7
_MARGIN_VOXELS = 4
"""How far past the cavity its contents are evaluated, so that slopes at its surface are right."""


@dataclass(frozen=True, eq=False)
class Chest:
    """One patient, breathed in, in the frame of the body."""

    thorax: Thorax
    trees: PulmonaryTrees
    ribs: Tubes


def scan(
    chest: Chest, breathing: Breathing, grid: Grid
) -> tuple[Float[Tensor, "*shape"], Bool[Tensor, "*shape"]]:
    """HU without noise, and where the lungs are, on a ``grid`` in the frame of the body, after
    ``breathing`` has moved the chest.
    """
    points = grid.points(torch.float64).reshape(-1, 3)
    wall_points = in_parts(breathing.wall_inverse, points)
    cavity = _on_grid(chest.thorax.cavity, wall_points, grid)
    near = cavity < _MARGIN_VOXELS * float(grid.spacing.max())
    contents, lungs = _contents(chest.thorax, breathing, points[near.reshape(-1)], near)
    hu = _over(_chest_wall(chest, breathing, wall_points, grid), coverage(cavity), contents)
    return _with_tubes(hu, chest.trees, breathing, grid), lungs & (cavity < 0)


def _chest_wall(
    chest: Chest, breathing: Breathing, points: Float[Tensor, "n 3"], grid: Grid
) -> Float[Tensor, "*shape"]:
    """HU of air, fat, muscle and bones; ``points`` are where the voxel centres lay before
    breathing.
    """
    thorax = chest.thorax
    muscle, breast_bone = partial(thorax.body, inset=10.0), partial(sternum, thorax=thorax)
    hu = torch.full(grid.shape, _AIR)
    for level, value in (
        (thorax.body, _FAT),
        (muscle, _on_grid(thorax.soft_tissue, points, grid)),
        (breast_bone, _MARROW),
        (spine, _on_grid(spine_hu, points, grid)),
    ):
        hu = _over(hu, coverage(_on_grid(level, points, grid)), value)
    return _over(hu, tube_coverage(chest.ribs.mapped(breathing.wall), grid), _BONE)


def _contents(
    thorax: Thorax, breathing: Breathing, points: Float[Tensor, "n 3"], near: Bool[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Bool[Tensor, "*shape"]]:
    """HU of lungs, mediastinum and abdomen without their tubes, and where the lungs would be had
    the cavity no wall; known at ``points``, the voxels ``near`` it.
    """
    before = in_parts(breathing.inside_inverse, points)
    abdomen, mediastinum = (
        _spread(thorax.abdomen, before, near),
        _spread(thorax.mediastinum, before, near),
    )
    aerated = coverage(-abdomen) * coverage(-mediastinum)
    aired = near & (aerated > 1e-4)
    before_in_air = before[aired[near]]
    density = _over(
        _spread(thorax.parenchyma, before_in_air, aired),
        _fissures(thorax, before, near),
        _SHEET + 1000,
    )
    lung = density / _spread(breathing.expansion, before_in_air, aired) - 1000
    return _over(_spread(thorax.soft_tissue, before, near), aerated, lung), (abdomen > 0) & (
        mediastinum > 0
    )


def _fissures(
    thorax: Thorax, points: Float[Tensor, "n 3"], near: Bool[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Share of each voxel filled by the sheets between the lobes."""
    major, minor = (
        _spread(thorax.major_fissure, points, near),
        _spread(thorax.minor_fissure, points, near),
    )
    right_upper = coverage(-major) * _spread(lambda p: (p[:, 0] > 0).double(), points, near)
    return torch.maximum(coverage(major, _FISSURE_MM), coverage(minor, _FISSURE_MM) * right_upper)


def _with_tubes(
    hu: Float[Tensor, "*shape"], trees: PulmonaryTrees, breathing: Breathing, grid: Grid
) -> Float[Tensor, "*shape"]:
    """``hu`` with vessels and airways painted over."""
    hu = _over(hu, tube_coverage(trees.vessels.mapped(breathing), grid), _BLOOD)
    airways = trees.airways.mapped(breathing)
    hu = _over(hu, tube_coverage(airways.thickened(1.1, 0.6), grid), _SHEET)
    return hu + tube_coverage(airways, grid) * (_AIR - _SHEET)


def _over(
    below: Float[Tensor, "*shape"],
    share: Float[Tensor, "*shape"],
    above: Float[Tensor, "*shape"] | float,
) -> Float[Tensor, "*shape"]:
    """``above`` painted over ``below`` where it fills a ``share`` of the voxel."""
    return below + share * (above - below)


def _on_grid(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "n 3"], grid: Grid
) -> Float[Tensor, "*shape"]:
    """``function`` of one point a voxel."""
    return in_parts(lambda part: function(part).float(), points).reshape(grid.shape)


def _spread(
    function: Callable[[Tensor], Tensor],
    points: Float[Tensor, "n 3"],
    chosen: Bool[Tensor, "*shape"],
) -> Float[Tensor, "*shape"]:
    """``function`` of one point for each ``chosen`` voxel, 1 elsewhere."""
    result = torch.ones(chosen.shape)
    result[chosen] = in_parts(lambda part: function(part).float(), points)
    return result
