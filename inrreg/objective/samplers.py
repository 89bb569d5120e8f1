"""Where a step of the optimiser looks: one shape for every arrangement of samples.

Sites are a batch of B lattices of i x j (x k) points in fixed world mm. The whole grid is one
lattice, small patches are many, loose points are many lattices of one site. Measures see arrays
``[B, C, i, j, k]`` and the site spacing, and need not know which arrangement they got.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.settings_checks import check_above_zero, check_count


@dataclass(frozen=True, eq=False)
class Sites:
    """``points`` ``[b, *lattice, d]`` in fixed mm, ``spacing`` mm along each lattice axis; ``grid``
    where the one lattice is a grid's own voxels.
    """

    points: Float[Tensor, "b *lattice d"]
    spacing: tuple[float, ...]
    grid: Grid | None = None

    @property
    def lattice(self) -> tuple[int, ...]:
        return tuple(self.points.shape[1:-1])


class Sampler(Protocol):
    """Chooses the sites of a step inside ``mask`` (1 = use); a deterministic one is asked once a
    level.
    """

    deterministic: ClassVar[bool]

    def draw(self, mask: Image, generator: torch.Generator) -> Sites:
        """Sites on the grid of ``mask``, on its device; random numbers are drawn on the CPU from
        ``generator``.
        """
        ...


@dataclass(frozen=True)
class WholeGrid:
    """Every voxel of the level's grid, or of a coarser grid of ``spacing_mm`` over the same box."""

    spacing_mm: float | None = None
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_above_zero(self, "spacing_mm")

    def draw(self, mask: Image, generator: torch.Generator) -> Sites:
        """One lattice: the grid."""
        grid = mask.grid if self.spacing_mm is None else mask.grid.resampled(self.spacing_mm)
        return Sites(grid.points(device=mask.device)[None], tuple(grid.spacing.tolist()), grid)


@dataclass(frozen=True)
class Patches:
    """``count`` random cubes of ``size`` voxels of the level's grid, their centres at voxels inside
    the mask, shifted off the voxel centres at random.
    """

    count: int = 500
    size: int = 7
    deterministic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count(self, "count", "size")

    def draw(self, mask: Image, generator: torch.Generator) -> Sites:
        """``count`` lattices of ``size``^d sites."""
        grid, d = mask.grid, mask.grid.ndim
        candidates = (mask.data[0] > 0).nonzero()
        if len(candidates) == 0:
            raise InputError(
                "no voxel of the mask is left to sample at this level; give a larger mask or a"
                " finer level"
            )
        chosen = candidates[
            torch.randint(len(candidates), (self.count,), generator=generator).to(candidates.device)
        ]
        corner = (
            chosen
            + torch.rand(self.count, d, generator=generator).to(candidates.device)
            - 0.5
            - (self.size - 1) / 2
        )
        steps = [torch.arange(self.size, dtype=torch.float32, device=mask.device)] * d
        offsets = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1)
        voxels = corner.reshape(self.count, *[1] * d, d) + offsets
        return Sites(grid.to_world(voxels), tuple(np.asarray(grid.spacing).tolist()))


@dataclass(frozen=True)
class RandomPoints:
    """``count`` loose points, uniform over the voxels inside the mask: for measures and penalties
    without a window.
    """

    count: int = 10_000
    deterministic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_count(self, "count")

    def draw(self, mask: Image, generator: torch.Generator) -> Sites:
        """``count`` lattices of one site."""
        return Patches(self.count, 1).draw(mask, generator)
