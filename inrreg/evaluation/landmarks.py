"""Landmark (target registration) error.

It is the distance between a mapped fixed landmark and its moving landmark.

Reference: Castillo et al., Phys. Med. Biol. 2009 (the DIR-Lab cases, and the rounding of mapped
    points to voxels).
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Points
from inrreg.evaluation.distance_statistics import DistanceStatistics, distance_statistics
from inrreg.transforms.base import Transform


@dataclass(frozen=True)
class LandmarkError:
    """Errors of one set of landmarks.

    ``initial_mean_mm`` is the mean distance before registration. ``snapped`` is None without a
    moving grid.
    """

    initial_mean_mm: float
    continuous: DistanceStatistics
    snapped: DistanceStatistics | None = None

    def to_json(self) -> dict[str, int | float]:
        """One flat dict: the continuous statistics by their own keys, the snapped ones with
        ``snapped_`` before them.
        """
        snapped = (
            {f"snapped_{key}": value for key, value in self.snapped.to_json().items() if key != "n"}
            if self.snapped
            else {}
        )
        return {"initial_mean_mm": self.initial_mean_mm, **self.continuous.to_json(), **snapped}


@dataclass(frozen=True)
class LandmarkErrors:
    """Errors of ``all`` landmarks and of each group.

    The ``groups`` are landmarks that share the letters of their label.
    """

    all: LandmarkError
    groups: dict[str, LandmarkError]

    def to_json(self) -> dict[str, Any]:
        """``{"all": {...}, "groups": {letters: {...}}}``, each innermost dict flat."""
        return {
            "all": self.all.to_json(),
            "groups": {name: error.to_json() for name, error in self.groups.items()},
        }


def landmark_error(
    transform: Transform, fixed: Points, moving: Points, moving_grid: Grid | None = None
) -> LandmarkErrors:
    """|T(p) - q| over the pairs (p, q) of ``fixed`` and ``moving``, mm.

    With ``moving_grid`` also from T(p) rounded to the nearest moving voxel centre.

    A group holds the labels that start with the same letters: L1, L2 and L30 are L. Labels without
    letters are in ``all`` only.

    Raises:
        FrameError: transform, points and grid are not all 2-D or all 3-D.
        InputError: no landmark, unequal numbers, or labels in another order.
    """
    _check(transform, fixed, moving, moving_grid)
    initial = (fixed.coords - moving.coords).norm(dim=-1)
    continuous = landmark_distances(transform, fixed, moving)
    snapped = (
        None if moving_grid is None else landmark_distances(transform, fixed, moving, moving_grid)
    )

    def summary(chosen: Bool[Tensor, " n"]) -> LandmarkError:
        return LandmarkError(
            float(initial[chosen].mean()),
            distance_statistics(continuous[chosen]),
            None if snapped is None else distance_statistics(snapped[chosen]),
        )

    names = [_letters(label) for label in fixed.labels]
    groups = {
        name: summary(torch.tensor([other == name for other in names]))
        for name in dict.fromkeys(names)
        if name
    }
    return LandmarkErrors(summary(torch.ones(len(fixed), dtype=torch.bool)), groups)


@torch.no_grad()
def landmark_distances(
    transform: Transform, fixed: Points, moving: Points, moving_grid: Grid | None = None
) -> Float[Tensor, " n"]:
    """The error of each landmark, mm, in the order given.

    T(p) is snapped to the voxel centres of ``moving_grid`` if given.
    """
    mapped = transform(fixed.coords.to(transform.device)).to(moving.coords)
    if moving_grid is not None:
        mapped = snap(mapped, moving_grid)
    return (mapped - moving.coords).norm(dim=-1)


def snap(points: Float[Tensor, "*sites d"], grid: Grid) -> Float[Tensor, "*sites d"]:
    """The nearest voxel centre to each world point.

    Half-way rounds up. The lattice of centres continues beyond the image.
    """
    return grid.to_world((grid.to_voxel(points) + 0.5).floor())


def _letters(label: str) -> str:
    found = re.match(r"[A-Za-z]+", label)
    return found.group(0) if found else ""


def _check(transform: Transform, fixed: Points, moving: Points, moving_grid: Grid | None) -> None:
    dimensions = {
        transform.ndim,
        fixed.coords.shape[-1],
        moving.coords.shape[-1],
        transform.ndim if moving_grid is None else moving_grid.ndim,
    }
    if len(dimensions) > 1:
        raise FrameError(
            f"transform, {fixed.name}, {moving.name} and the moving grid have dimensions"
            f" {sorted(dimensions)}; give all the same"
        )
    if len(fixed) == 0 or len(fixed) != len(moving):
        raise InputError(
            f"{fixed.name} has {len(fixed)} landmarks and {moving.name} {len(moving)}; give one"
            " moving landmark for each fixed one, and at least one pair"
        )
    for number, (one, other) in enumerate(zip(fixed.labels, moving.labels, strict=True), start=1):
        if one != other:
            raise InputError(
                f"landmark {number} is {one!r} in {fixed.name} but {other!r} in {moving.name}; put"
                " the pairs in the same order under the same labels"
            )
