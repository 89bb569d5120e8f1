"""What a phantom is: two images, their masks and landmarks, and the map between them that made
them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike
from torch import Tensor

from inrreg.core.errors import InputError, OutputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points

PointMap = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]
"""Points ``[n, d]`` in mm, double precision -> points ``[n, d]``."""

_POINTS_AT_ONCE = 1 << 14
"""Small enough that what is computed on the way stays in the cache."""


@dataclass(frozen=True, eq=False)
class PhantomPair:
    """Two images of one object and the ``truth`` that maps fixed world points to moving world
    points, RAS mm.

    ``displacement`` is truth(x) - x at every voxel of the fixed grid, ``[*shape, d]`` in mm; ``mask
    == 1`` means "use this"; ``moving_landmarks`` are where the truth puts ``fixed_landmarks``.
    """

    fixed: Image
    moving: Image
    fixed_mask: LabelImage
    moving_mask: LabelImage
    truth: PointMap
    displacement: Float[Tensor, "*shape d"]
    fixed_landmarks: Points
    moving_landmarks: Points


def image_and_mask(
    values: Float[Tensor, "*shape"], inside: Bool[Tensor, "*shape"], grid: Grid, name: str
) -> tuple[Image, LabelImage]:
    """An image and its mask on ``grid``, under their names."""
    return Image.from_array(values.float(), grid, name), LabelImage.from_array(
        inside.to(torch.uint8), grid, f"{name} mask"
    )


def in_parts(function: Callable[[Tensor], Tensor], points: Float[Tensor, "n d"]) -> Tensor:
    """``function`` of many points, a part of them at a time."""
    return torch.cat([function(part) for part in points.split(_POINTS_AT_ONCE)])


def dense_displacement(truth: PointMap, grid: Grid) -> Float[Tensor, "*shape d"]:
    """truth(x) - x at every voxel of ``grid``, mm, solved in double precision and given in
    single.
    """
    import torch

    points = grid.points(torch.float64).reshape(-1, grid.ndim)
    return (truth(points) - points).reshape(*grid.shape, grid.ndim).float()


def oblique_grid(
    shape: Sequence[int], spacing: ArrayLike, center: ArrayLike, degrees: Sequence[float]
) -> Grid:
    """A grid about the world point ``center`` whose axes are turned by ``degrees``: about z, then
    about x and y in 3-D.
    """
    axes = [(0, 1), (1, 2), (2, 0)] if len(shape) == 3 else [(0, 1)]
    direction = np.eye(len(shape))
    for (a, b), angle in zip(axes, np.deg2rad(degrees), strict=True):
        turn = np.eye(len(shape))
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        direction = turn @ direction
    middle = (direction * np.broadcast_to(np.asarray(spacing, dtype=float), (len(shape),))) @ (
        (np.array(shape) - 1) / 2
    )
    return Grid.from_spacing(shape, spacing, np.asarray(center, dtype=float) - middle, direction)


def amplitude_for(mean_motion: Callable[[float], float], target_mm: float, largest: float) -> float:
    """The amplitude between 0 and ``largest`` at which ``mean_motion`` (growing with it) is
    ``target_mm``.

    Raises:
        InputError: the motion is negative, or more than ``largest`` gives.
    """
    from scipy.optimize import brentq

    lower, upper = mean_motion(0.0), mean_motion(largest)
    if not lower <= target_mm <= upper:
        raise InputError(
            f"a mean motion of {target_mm:g} mm is not possible here: this phantom moves by"
            f" {lower:.3g} to {upper:.3g} mm; ask for a motion in that range or for a larger image"
        )
    return float(
        brentq(
            lambda amplitude: mean_motion(amplitude) - target_mm,
            0.0,
            largest,
            xtol=1e-9 * max(largest, 1.0),
        )
    )


def spread_out(
    candidates: Float[Tensor, "n d"], count: int, rng: np.random.Generator
) -> Float[Tensor, "count d"]:
    """``count`` of the candidates, far from each other: each is the one farthest from those before
    it.

    Raises:
        InputError: there are fewer candidates.
    """
    if count > len(candidates):
        raise InputError(
            f"{count} landmarks were asked for, but this phantom has {len(candidates)} places for"
            " them; ask for fewer"
        )
    distance = torch.full((len(candidates),), float("inf"), dtype=torch.float64)
    chosen, last = [], int(rng.integers(len(candidates)))
    for _ in range(count):
        chosen.append(last)
        distance = torch.minimum(distance, (candidates - candidates[last]).norm(dim=1))
        last = int(distance.argmax())
    return candidates[chosen]


def save_pair(pair: PhantomPair, folder: Path) -> None:
    """Write ``fixed``, ``moving``, ``fixed_mask``, ``moving_mask`` and ``displacement``
    (``.nii.gz``) and ``landmarks.csv`` into ``folder``.

    Raises:
        OutputError: a file cannot be written.
    """
    from inrreg.io import write_displacement, write_image, write_point_pairs

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {folder} cannot be made ({error.strerror}); choose another"
        ) from error
    for name in ("fixed", "moving", "fixed_mask", "moving_mask"):
        write_image(getattr(pair, name), folder / f"{name}.nii.gz")
    write_displacement(pair.displacement, pair.fixed.grid, folder / "displacement.nii.gz")
    write_point_pairs(pair.fixed_landmarks, pair.moving_landmarks, folder / "landmarks.csv")
