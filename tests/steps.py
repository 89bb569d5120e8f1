"""Steps of an optimiser made by hand: what the tests of sites, steps, similarities and penalties
share.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.objective.samplers import Sites
from inrreg.objective.step import Level, Samples, Step
from inrreg.transforms import Transform


class Given(Transform):
    """A transform whose displacement is the function that is given; its Jacobian is taken by
    forward-mode differentiation.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], ndim: int) -> None:
        super().__init__()
        self.function, self.ndim = function, ndim

    def displacement(self, points: Tensor) -> Tensor:
        return self.function(points)

    def config(self) -> dict[str, Any]:
        raise NotImplementedError

    from_config = classmethod(config)  # type: ignore[assignment]


class Table(Given):
    """A transform that only knows its displacement at the sites of one step, ``[b, *lattice, d]``:
    what a gradient check varies.
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__(lambda points: vectors, vectors.shape[-1])


def still(ndim: int) -> Given:
    """The identity, without parameters."""
    return Given(torch.zeros_like, ndim)


def voxels_of(grid: Grid) -> Sites:
    """Every voxel of ``grid`` in double precision, as one lattice of points that interpolation must
    find.
    """
    return Sites(grid.points(torch.float64)[None], tuple(grid.spacing.tolist()))


def whole(grid: Grid) -> Sites:
    """Every voxel of ``grid`` in double precision, as the grid itself: the fixed image is read off,
    without interpolation.
    """
    return Sites(grid.points(torch.float64)[None], tuple(grid.spacing.tolist()), grid)


def image_of(values: Tensor, grid: Grid, name: str = "image") -> Image:
    """An image in double precision of ``[*shape]`` or ``[c, *shape]`` values."""
    return Image(values.double().reshape(-1, *grid.shape), grid, name)


def step_between(
    fixed: Tensor,
    moving: Tensor,
    grid: Grid,
    fixed_mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    transform: Transform | None = None,
    sites: Sites | None = None,
) -> Step:
    """A step that compares two arrays on one ``grid``, voxel by voxel under the identity unless a
    transform or sites are given.
    """
    if sites is None:
        sites = whole(grid) if transform is None else voxels_of(grid)
    ones = torch.ones(grid.shape)
    level = Level(
        image_of(fixed, grid, "fixed"),
        image_of(moving, grid, "moving"),
        image_of(ones if fixed_mask is None else fixed_mask, grid, "fixed mask"),
        None if moving_mask is None else image_of(moving_mask, grid, "moving mask"),
    )
    return Step(Samples(level, sites), transform or still(grid.ndim), None)


def geometry(transform: Transform, sites: Sites) -> Step:
    """A step for penalties: the images hold nothing."""
    grid = Grid.from_spacing([2] * transform.ndim, 1.0)
    empty = image_of(torch.zeros(grid.shape), grid)
    return Step(Samples(Level(empty, empty, empty), sites), transform, None)


def noise(shape: Sequence[int], seed: int, channels: int = 1) -> Tensor:
    """White noise in 0 ... 1, double precision, ``[channels, *shape]``."""
    return torch.rand(
        channels, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def between_centres(grid: Grid, seed: int = 5) -> nn.Parameter:
    """Displacements of all voxels by 0.15 to 0.85 of a voxel, so that no sample lies where linear
    interpolation kinks; ``[1, *shape, d]`` mm.
    """
    fraction = 0.15 + 0.7 * torch.rand(
        1,
        *grid.shape,
        grid.ndim,
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    return nn.Parameter(fraction @ torch.tensor(grid.matrix.T))
