"""The Jacobian determinant of a map, the local change of volume.

1 keeps volume, below 1 shrinks from fixed to moving, 0 or less is a fold.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.evaluation.region import selected
from inrreg.ops.small_matrices import determinant
from inrreg.transforms.base import Transform

SLAB = 1 << 22
"""Voxels whose Jacobian matrices are held at once: 150 MB of them in 3-D."""


@dataclass(frozen=True)
class JacobianStatistics:
    """Summary of the determinant over ``n_voxels``; it has no unit.

    ``sd_log`` leaves the ``n_folded`` voxels out and is None if nothing else is left.
    """

    n_voxels: int
    n_folded: int
    folded_percent: float
    mean: float
    min: float
    p1: float
    p5: float
    median: float
    p95: float
    p99: float
    max: float
    sd_log: float | None

    def to_json(self) -> dict[str, int | float | None]:
        return asdict(self)


@torch.no_grad()
def jacobian_determinant(transform: Transform, grid: Grid) -> Float[Tensor, "*shape"]:
    """det dT/dx at every voxel centre of ``grid``, from the transform's own derivatives.

    At its own voxel centres a linearly interpolated field has no derivative (the slope differs on
    either side): for such a field take ``jacobian_determinant_of_field``.
    """
    rest = grid.shape[1:]
    start_of_rest = (0,) * len(rest)
    return torch.cat(
        [
            determinant(transform.jacobian_on(grid.cropped((start, *start_of_rest), (stop, *rest))))
            for start, stop in _slabs(grid)
        ]
    )


def jacobian_determinant_of_field(
    u: Float[Tensor, "*shape d"], grid: Grid
) -> Float[Tensor, "*shape"]:
    """det(I + du/dx) of a displacement field in RAS mm on ``grid``.

    Derivatives are central differences, one-sided at the border, and respect the direction cosines.

    Along an axis of a single voxel the derivative is taken as zero.

    Raises:
        FrameError: ``u`` does not lie on ``grid``.
    """
    if tuple(u.shape) != (*grid.shape, grid.ndim):
        raise FrameError(
            f"a displacement field on {grid} has shape {(*grid.shape, grid.ndim)}, got"
            f" {tuple(u.shape)}"
        )
    voxel_per_mm = torch.as_tensor(np.linalg.inv(grid.matrix), dtype=u.dtype, device=u.device)
    identity = torch.eye(grid.ndim, dtype=u.dtype, device=u.device)
    parts = []
    for start, stop in _slabs(grid):
        # a slab sees one voxel on either side, so its ends are central differences too
        first = max(start - 1, 0)
        slab = u[first : stop + 1]
        along_index = torch.stack([_difference(slab, axis) for axis in range(grid.ndim)], -1)
        parts.append(
            determinant(identity + along_index @ voxel_per_mm)[start - first : stop - first]
        )
    return torch.cat(parts)


def jacobian_statistics(
    det: Float[Tensor, "*shape"], mask: Image | None = None
) -> JacobianStatistics:
    """Statistics of a determinant over the voxels where ``mask`` is 1.

    The mask lies on the same grid. Without one all voxels count.

    Raises:
        FrameError: the shapes of determinant and mask differ.
        InputError: an empty mask, or a determinant that is not finite there.
    """
    if mask is not None and tuple(det.shape) != mask.grid.shape:
        raise FrameError(
            f"{mask.name} lies on {mask.grid}, but the determinant has shape {tuple(det.shape)};"
            " take both on the same grid"
        )
    values = det.detach().double().cpu().numpy()
    values = values.ravel() if mask is None else values[selected(mask, mask.grid)]
    if not np.isfinite(values).all():
        raise InputError(
            f"the Jacobian determinant is not finite at {int((~np.isfinite(values)).sum())} of"
            f" {len(values)} voxels; the transform has diverged there"
        )
    least, p1, p5, median, p95, p99, largest = np.percentile(
        values, (0, 1, 5, 50, 95, 99, 100)
    ).tolist()
    unfolded = values[values > 0]
    n_folded = len(values) - len(unfolded)
    return JacobianStatistics(
        n_voxels=len(values),
        n_folded=n_folded,
        folded_percent=100.0 * n_folded / len(values),
        mean=float(values.mean()),
        min=least,
        p1=p1,
        p5=p5,
        median=median,
        p95=p95,
        p99=p99,
        max=largest,
        sd_log=float(np.log(unfolded).std()) if len(unfolded) else None,
    )


def _difference(u: Tensor, axis: int) -> Tensor:
    """Per voxel step: central, one-sided at both ends, zero where there is no neighbour."""
    return torch.gradient(u, dim=axis)[0] if u.shape[axis] > 1 else torch.zeros_like(u)


def _slabs(grid: Grid) -> list[tuple[int, int]]:
    """First and last (exclusive) index of consecutive slabs along the first axis."""
    thickness = max(1, SLAB // math.prod(grid.shape[1:]))
    return [
        (start, min(start + thickness, grid.shape[0]))
        for start in range(0, grid.shape[0], thickness)
    ]
