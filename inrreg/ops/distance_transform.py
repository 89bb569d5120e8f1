"""How far the nearest voxel of a set is, up to a limit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def distance_within(
    reach_mm: float, members: NDArray[np.bool_], spacing: Sequence[float] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distance in mm, voxel centre to voxel centre, to the nearest of ``members``, an array of 2 or
    3 axes of voxels ``spacing`` mm apart; ``reach_mm`` where that is nearer.
    """
    from inrreg.ops.loops import in_parallel
    from inrreg.ops.loops.nearest import across_rows, along_rows

    planes, rows, n = [1] * (3 - members.ndim) + list(members.shape)
    steps, reach = [1.0] * (3 - members.ndim) + [float(step) for step in spacing], float(reach_mm)
    squares, between = np.empty((planes * rows, n)), np.empty((planes * rows, n))
    in_parallel(
        along_rows,
        planes * rows,
        np.ascontiguousarray(members).reshape(-1, n),
        steps[2],
        reach,
        squares,
    )
    in_parallel(across_rows, planes, squares, rows, rows, 1, steps[1], reach, between)
    in_parallel(across_rows, rows, between, planes, 1, rows, steps[0], reach, squares)
    return np.sqrt(squares, out=squares).reshape(members.shape)
