"""Linear interpolation of an image at the displaced sites of a grid: a step of a registration asks
for it more often than for anything else.

The compiled form computes the positions of sites a row at a time, so it makes no array of points.
Its derivative computes the slopes again, which is faster than to store them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.core.threads import lazy
from inrreg.ops.dispatch import as_volume, components_in_three, in_three, operation
from inrreg.ops.sampler import inside_at, linear_at, voxel_scale

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class GridToVoxelMap:
    """Where the displaced sites of a lattice lie in voxels of an image: voxel(x + u) = start +
    index @ steps + u @ turn, for the sites that count.

    ``steps`` holds image voxels per site, one row an index axis; ``turn`` image voxels per mm of u,
    one row a component of u.
    """

    counted: Bool[Tensor, "*lattice"]
    start: NDArray[np.float64]
    steps: NDArray[np.float64]
    turn: NDArray[np.float64]

    @classmethod
    def through(
        cls,
        sites: Grid,
        image: Grid,
        matrix: NDArray[np.float64],
        shift: NDArray[np.float64],
        counted: Bool[Tensor, "*lattice"],
    ) -> Self:
        """Of the voxels of ``sites`` displaced and then carried by x -> matrix x + shift, mm."""
        to_voxel = np.linalg.inv(image.matrix)
        turn = (to_voxel @ matrix).T
        return cls(
            counted.contiguous(),
            to_voxel @ (matrix @ sites.origin + shift - image.origin),
            sites.matrix.T @ turn,
            turn,
        )

    @classmethod
    def unmoved(cls, sites: Grid, image: Grid) -> Self:
        """Of all voxels of ``sites`` in the same space."""
        return cls.through(
            sites,
            image,
            np.eye(sites.ndim),
            np.zeros(sites.ndim),
            torch.ones(sites.shape, dtype=torch.bool),
        )

    @lazy
    def arrays(self) -> tuple[Array, ...]:
        """The arguments of the loops: the parts of the rows that hold all sites that count, start,
        steps and turn, all of three axes; on the CPU.
        """
        parts = row_parts(volumes(self.counted[None])[0])
        d = len(self.start)
        start = np.array(in_three(self.start.tolist(), d, 0.0))
        return parts, start, *(_matrix_in_three(matrix) for matrix in (self.steps, self.turn))

    def sampler_coordinates(
        self, displacement: Float[Tensor, "*lattice d"], shape: Sequence[int]
    ) -> Float[Tensor, "*lattice d"]:
        """Where the displaced sites lie in an image of ``shape``, as ``inrreg.ops.sampler``
        counts.
        """
        d, scale = len(shape), voxel_scale(shape)

        def flipped(rows: NDArray[np.float64]) -> Tensor:
            """Last axis of the image first, on the device of the displacement."""
            return torch.from_numpy((rows * scale)[..., ::-1].copy()).to(displacement)

        coordinates = displacement @ flipped(self.turn)
        for axis, n in enumerate(displacement.shape[:-1]):
            along = np.arange(n)[:, None] * self.steps[axis]
            if axis == 0:
                along = along + self.start - 1 / scale
            coordinates = coordinates + flipped(along).reshape(n, *[1] * (d - 1 - axis), d)
        return coordinates


def _matrix_in_three(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows and columns of 0 for the axis that a plane has not."""
    d = len(matrix)
    rows = in_three(matrix.tolist(), d, [0.0] * d)
    return np.array([in_three(row, d, 0.0) for row in rows])


def row_parts(counted: Bool[np.ndarray, "i j k"]) -> Int[np.ndarray, "i j 2"]:
    """Begin and end of the part of each row that holds all that counts; both 0 where nothing
    does.
    """
    n, some = counted.shape[2], counted.any(2)
    return np.stack(
        [
            np.where(some, counted.argmax(2), 0),
            np.where(some, n - counted[:, :, ::-1].argmax(2), 0),
        ],
        -1,
    )


def volumes(values: Shaped[Tensor, "c *lattice"]) -> Shaped[np.ndarray, "c i j k"]:
    """As the loops want them: contiguous, with three spatial axes."""
    return as_volume(values.detach(), values.ndim - 1).contiguous().numpy()


def vectors(values: Float[Tensor, "d *lattice"]) -> Float[np.ndarray, "3 i j k"]:
    """``volumes`` of components."""
    return volumes(components_in_three(values))


def _example(ndim: int, generator: torch.Generator) -> tuple[Tensor, Tensor, GridToVoxelMap]:
    """A grid that reaches beyond the image, all of its sites counted."""
    image = Grid.from_spacing((9, 8, 7)[:ndim], (1.1, 0.8, 1.6)[:ndim])
    sites = Grid.from_spacing((7, 8, 6)[:ndim], 1.5, [-0.7, -0.9, 0.6][:ndim])
    data = torch.randn(2, *image.shape, dtype=torch.float64, generator=generator)
    noise = torch.rand(*sites.shape, ndim, dtype=torch.float64, generator=generator)
    return data, 2 * noise - 1, GridToVoxelMap.unmoved(sites, image)


@operation(compiled="inrreg.ops.interpolation.compiled", example=_example)
def interpolated(
    data: Float[Tensor, "c *shape"],
    displacement: Float[Tensor, "*lattice d"],
    placement: GridToVoxelMap,
) -> Float[Tensor, "c *lattice"]:
    """The image at the displaced sites, its border held; values at sites that do not count mean
    nothing. Differentiable by the displacement (mm), once, and not by the image.
    """
    dtype = torch.promote_types(displacement.dtype, data.dtype)
    coordinates = placement.sampler_coordinates(displacement.to(dtype), data.shape[1:])
    return linear_at(data.detach(), coordinates)


def _example_of_weights(
    ndim: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Sequence[int], GridToVoxelMap]:
    data, displacement, placement = _example(ndim, generator)
    weight = torch.rand(displacement.shape[:-1], dtype=torch.float64, generator=generator)
    return weight, displacement, tuple(data.shape[1:]), placement


@operation(compiled="inrreg.ops.interpolation.compiled", example=_example_of_weights)
@torch.no_grad()
def within(
    weight: Float[Tensor, "*lattice"],
    displacement: Float[Tensor, "*lattice d"],
    shape: Sequence[int],
    placement: GridToVoxelMap,
) -> Float[Tensor, "*lattice"]:
    """``weight`` where a displaced site lies within the voxels of an image of ``shape``, 0 where it
    lies outside; values at sites that do not count mean nothing. No gradient.
    """
    inside = inside_at(shape, placement.sampler_coordinates(displacement, shape))
    return weight.where(inside.bool(), torch.zeros_like(weight))
