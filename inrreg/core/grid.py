"""Where samples lie: voxel grids in world millimetres, and the unit cube that networks see.

World is RAS in mm with a double-precision affine, as nibabel gives it; points are last-axis (x, y,
z), arrays keep the index order (i, j, k). Everything works in two and three dimensions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from inrreg.core.errors import FrameError
from inrreg.core.threads import lazy


def affine_map(
    points: Tensor, matrix: NDArray[np.floating], before: ArrayLike, after: ArrayLike
) -> Tensor:
    """matrix @ (points - before) + after.

    Subtracting first keeps float32 points exact far from the world origin.
    """
    if points.shape[-1] != len(matrix) or not points.is_floating_point():
        raise FrameError(
            f"expected floating-point coordinates with a last axis of {len(matrix)}, got"
            f" {points.dtype} of shape {tuple(points.shape)}; convert whole numbers with .double()"
        )

    def like(array: ArrayLike) -> Tensor:
        return torch.tensor(np.ascontiguousarray(array), dtype=points.dtype, device=points.device)

    return F.linear(points - like(before), like(matrix), like(after))


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular lattice of voxel centres.

    It has ``shape`` voxels and a (d+1) x (d+1) ``affine`` from voxel index to RAS mm.

    Raises:
        FrameError: the affine is singular, not finite, of another dimension than the shape, or has
            a last row other than 0 ... 0 1.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)
        d = len(shape)
        if d not in (2, 3) or min(shape) < 1:
            raise FrameError(f"a grid has 2 or 3 axes of at least one voxel, got shape {shape}")
        if (
            affine.shape != (d + 1, d + 1)
            or not np.isfinite(affine).all()
            or not np.allclose(affine[d], np.eye(d + 1)[d])
        ):
            raise FrameError(
                f"a grid of shape {shape} needs a finite {d + 1} x {d + 1} voxel-to-world affine"
                f" whose last row is {np.eye(d + 1)[d].tolist()}, got {affine.tolist()}"
            )
        spacing = np.linalg.norm(affine[:d, :d], axis=0)
        if (
            spacing.min() <= 0
            or abs(np.linalg.det(affine[:d, :d] / np.maximum(spacing, 1e-300))) < 1e-3
        ):
            raise FrameError(
                f"the voxel-to-world affine is singular (columns {affine[:d, :d].tolist()}); repair"
                " the image header, for instance with nibabel's set_sform"
            )

    @classmethod
    def from_spacing(
        cls,
        shape: Sequence[int],
        spacing: ArrayLike,
        origin: ArrayLike | None = None,
        direction: ArrayLike | None = None,
    ) -> Self:
        """The grid of ``shape`` voxels of ``spacing`` mm.

        Voxel 0 lies at the world origin and the axes along x, y, z unless given.
        """
        d = len(shape)
        affine = np.eye(d + 1)
        affine[:d, :d] = (
            np.eye(d) if direction is None else np.asarray(direction, dtype=float)
        ) * np.broadcast_to(np.asarray(spacing, dtype=float), (d,))
        if origin is not None:
            affine[:d, d] = origin
        return cls(tuple(shape), affine)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The grid itself: it never changes."""
        return self

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def n_voxels(self) -> int:
        return math.prod(self.shape)

    @lazy
    def matrix(self) -> NDArray[np.float64]:
        """World mm per voxel step, d x d."""
        return self.affine[: self.ndim, : self.ndim]

    @lazy
    def origin(self) -> NDArray[np.float64]:
        """World position of voxel (0, 0, 0)."""
        return self.affine[: self.ndim, self.ndim]

    @lazy
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size along each index axis, mm."""
        return np.linalg.norm(self.matrix, axis=0)

    @lazy
    def direction(self) -> NDArray[np.float64]:
        """Unit world vectors of the index axes, as columns."""
        return self.matrix / self.spacing

    @property
    def extent(self) -> NDArray[np.float64]:
        """Edge lengths of the box of whole voxels, mm."""
        return self.spacing * np.array(self.shape)

    @property
    def center(self) -> NDArray[np.float64]:
        """World position of the middle of the box."""
        return self.matrix @ ((np.array(self.shape) - 1) / 2) + self.origin

    def to_world(self, voxels: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        """Continuous voxel index -> world mm.

        Raises:
            FrameError: indices of another dimension than the grid, or whole numbers in an integer
                type.
        """
        return affine_map(voxels, self.matrix, np.zeros(self.ndim), self.origin)

    def to_voxel(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        """World mm -> continuous voxel index (0 is the centre of the first voxel).

        Raises:
            FrameError: points of another dimension than the grid, or whole numbers in an integer
                type.
        """
        return affine_map(points, np.linalg.inv(self.matrix), self.origin, np.zeros(self.ndim))

    def points(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Float[Tensor, "*shape d"]:
        """World position of every voxel centre."""
        axes = [torch.arange(n, dtype=dtype, device=device) for n in self.shape]
        return self.to_world(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1))

    def resampled(self, spacing: float | Sequence[float]) -> "Grid":
        """A grid of about the same box and the same centre at ``spacing`` mm.

        No axis becomes finer than it is.
        """
        target = np.maximum(
            np.broadcast_to(np.asarray(spacing, dtype=float), (self.ndim,)), self.spacing
        )
        # the bias keeps headers that differ by rounding on one grid
        shape = np.maximum(np.floor(self.extent / target + 0.5 + 1e-3), 1).astype(int)
        return self._about_center(shape, target)

    def covering(self, spacing: float | Sequence[float], margin: int = 0) -> "Grid":
        """The smallest centred grid at ``spacing`` mm whose voxel centres reach past every voxel
        centre here, plus ``margin`` voxels.
        """
        target = np.broadcast_to(np.asarray(spacing, dtype=float), (self.ndim,))
        shape = (
            np.ceil((np.array(self.shape) - 1) * self.spacing / target - 1e-6).astype(int)
            + 1
            + 2 * margin
        )
        return self._about_center(shape, target)

    def cropped(self, lower: Sequence[int], upper: Sequence[int]) -> "Grid":
        """Voxels ``lower`` (inclusive) to ``upper`` (exclusive) of this grid.

        Bounds outside the grid enlarge it.
        """
        affine = self.affine.copy()
        affine[: self.ndim, self.ndim] = self.matrix @ np.asarray(lower, dtype=float) + self.origin
        return Grid(tuple(int(u - lo) for lo, u in zip(lower, upper, strict=True)), affine)

    def _about_center(self, shape: NDArray[np.int_], spacing: NDArray[np.float64]) -> "Grid":
        matrix = self.direction * spacing
        return Grid.from_spacing(
            tuple(shape), spacing, self.center - matrix @ ((shape - 1) / 2), self.direction
        )

    def same_as(self, other: "Grid", tolerance: float = 1e-3) -> bool:
        """Whether both place every voxel within ``tolerance`` mm of each other."""
        if self.shape != other.shape:
            return False
        corner = np.array(self.shape, dtype=float)
        difference = self.matrix - other.matrix
        return (
            float(
                np.abs(difference) @ corner @ np.ones(self.ndim)
                + np.abs(self.origin - other.origin).max()
            )
            <= tolerance
        )

    def aligned_with(self, other: "Grid") -> bool:
        """Whether the index axes of both point the same way, axis by axis."""
        return self.ndim == other.ndim and bool(
            np.allclose(self.direction, other.direction, atol=1e-6)
        )

    def to_json(self) -> dict[str, list]:
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    @classmethod
    def from_json(cls, entry: dict[str, list]) -> "Grid":
        return Grid(tuple(entry["shape"]), np.array(entry["affine"]))

    def __repr__(self) -> str:
        return (
            f"Grid({' x '.join(map(str, self.shape))} voxels of"
            f" {' x '.join(f'{s:.3g}' for s in self.spacing)} mm, centre"
            f" {np.round(self.center, 1).tolist()} RAS)"
        )


@dataclass(frozen=True)
class Cube:
    """The isotropic frame of coordinate networks: world mm -> [-1, 1]^d.

    All axes have one scale, so a frequency means the same along each.
    """

    center: tuple[float, ...]
    half_width: float

    @classmethod
    def around(cls, grid: Grid) -> Self:
        """The smallest cube around the box of ``grid``."""
        corners = np.stack(
            np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij"), -1
        ).reshape(-1, grid.ndim)
        world = corners @ grid.matrix.T + grid.origin
        return cls(tuple(grid.center.tolist()), float(np.abs(world - grid.center).max()))

    def to_unit(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        """World mm -> cube coordinates."""
        return (
            points - torch.as_tensor(self.center, dtype=points.dtype, device=points.device)
        ) / self.half_width

    def lattice(self, n: int) -> Grid:
        """The grid of ``n`` points along each world axis, the first at -1 and the last at 1."""
        return Grid.from_spacing(
            (n,) * len(self.center),
            2 * self.half_width / (n - 1),
            np.array(self.center) - self.half_width,
        )
