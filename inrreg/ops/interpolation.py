"""Linear interpolation of an image where the sites of a grid are displaced to: what a step of a
registration asks for most often, in compiled loops on a CPU.

Where a site lies in voxels of the image is found a row at a time, so no array of points is made; on
the way back the slope is computed anew, which is quicker than to keep it.
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

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class GridToVoxelMap:
    """Where the displaced sites of a lattice lie in voxels of an image: voxel(x + u) = start +
    index @ steps + u @ turn, for the sites that count; on the CPU.

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
        """What the loops ask for: the parts of the rows that hold what counts, start, steps and
        turn, all of three axes.
        """
        parts, matrices = row_parts(volumes(self.counted[None])[0]), (self.steps, self.turn)
        if len(self.start) == 3:
            return parts, self.start, *matrices
        return (
            parts,
            np.insert(self.start, 1, 0),
            *(np.insert(np.insert(matrix, 1, 0, axis=0), 1, 0, axis=1) for matrix in matrices),
        )


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
    """As the loops want them: in one piece, and lattices of two axes with one between them that is
    a single site long.
    """
    solid = values.detach().contiguous().numpy()
    return solid if values.ndim == 4 else solid[:, :, None]


def vectors(values: Float[Tensor, "d *lattice"]) -> Float[np.ndarray, "3 i j k"]:
    """``volumes`` of components."""
    return volumes(values) if len(values) == 3 else np.insert(volumes(values), 1, 0, axis=0)


class _Interpolation(torch.autograd.Function):
    """Values of the image, and how they change with u, mm."""

    @staticmethod
    def forward(ctx: Any, displacement: Tensor, data: Tensor, placement: GridToVoxelMap) -> Tensor:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.interpolation import interpolate

        ctx.save_for_backward(displacement, data)
        ctx.placement = placement
        parts, *where = placement.arrays
        values = displacement.new_empty(len(data), *displacement.shape[1:])
        in_parallel(
            interpolate,
            len(parts),
            vectors(displacement),
            parts,
            volumes(data),
            *where,
            volumes(values),
        )
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.interpolation import interpolate_back

        displacement, data = ctx.saved_tensors
        parts, *where = ctx.placement.arrays
        result = np.empty((3, *volumes(gradient).shape[1:]), gradient.numpy().dtype)
        in_parallel(
            interpolate_back,
            len(parts),
            vectors(displacement),
            parts,
            volumes(data),
            *where,
            volumes(gradient),
            result,
        )
        of_components = result if len(displacement) == 3 else result[::2, :, 0]
        return torch.from_numpy(of_components), None, None


def interpolated(
    data: Float[Tensor, "c *shape"],
    displacement: Float[Tensor, "*lattice d"],
    placement: GridToVoxelMap,
) -> Float[Tensor, "c *lattice"]:
    """The image at the displaced sites, border held; what stands at those that do not count means
    nothing. Differentiable by the displacement (mm), once, and not by the image.
    """
    dtype = torch.promote_types(displacement.dtype, data.dtype)
    return _Interpolation.apply(
        displacement.movedim(-1, 0).to(dtype), data.detach().to(dtype), placement
    )


@torch.no_grad()
def within(
    weight: Float[Tensor, "*lattice"],
    displacement: Float[Tensor, "*lattice d"],
    shape: Sequence[int],
    placement: GridToVoxelMap,
) -> Float[Tensor, "*lattice"]:
    """``weight`` where a displaced site lies within the voxels of an image of ``shape``, 0 where it
    lies outside; sites that do not count keep theirs. No gradient.
    """
    from inrreg.ops.loops import in_parallel
    from inrreg.ops.loops.interpolation import stay_inside

    parts, *where = placement.arrays
    left = torch.empty_like(weight, memory_format=torch.contiguous_format)
    sizes = np.array(shape if len(shape) == 3 else (shape[0], 1, shape[1]))
    in_parallel(
        stay_inside,
        len(parts),
        vectors(displacement.movedim(-1, 0)),
        parts,
        sizes,
        *where,
        volumes(weight[None])[0],
        volumes(left[None])[0],
    )
    return left
