"""Distances between the surfaces of label images, in mm.

References: Heimann et al., IEEE TMI 2009 (average symmetric surface distance); Huttenlocher et al.,
    IEEE TPAMI 1993 (partial Hausdorff distance).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import LabelImage
from inrreg.evaluation.region import require_grid


@dataclass(frozen=True)
class SurfaceDistance:
    """Distances between two surfaces, mm."""

    hausdorff95_mm: float
    mean_mm: float


@dataclass(frozen=True)
class SurfaceDistances:
    """The surface distances of each label above 0 of the fixed image.

    A label that the warped image does not have is None.
    """

    labels: dict[int, SurfaceDistance | None]

    @property
    def found(self) -> list[SurfaceDistance]:
        """Those of the labels that both images hold."""
        return [distance for distance in self.labels.values() if distance is not None]

    def to_json(self) -> dict[str, int | float | None]:
        """``n_labels``, ``n_missing``, both means over the labels found (None if there is none),
        and ``label_<value>_...`` for each label.
        """
        found = self.found
        result: dict[str, int | float | None] = {
            "n_labels": len(self.labels),
            "n_missing": len(self.labels) - len(found),
            "mean_hausdorff95_mm": (
                float(np.mean([d.hausdorff95_mm for d in found])) if found else None
            ),
            "mean_surface_distance_mm": (
                float(np.mean([d.mean_mm for d in found])) if found else None
            ),
        }
        for label, distance in self.labels.items():
            result[f"label_{label}_hausdorff95_mm"] = distance.hausdorff95_mm if distance else None
            result[f"label_{label}_surface_distance_mm"] = distance.mean_mm if distance else None
        return result


def surface_distances(fixed: LabelImage, warped: LabelImage) -> SurfaceDistances:
    """Distances between the surfaces of every label of ``fixed`` and the same one of ``warped``.

    Raises:
        FrameError: the images lie on different grids, or on one with skewed axes.
        InputError: ``fixed`` has no label.
    """
    require_grid(fixed.grid, fixed, warped)
    _require_right_angles(fixed.grid)
    f, w = fixed.numpy(), warped.numpy()
    labels = np.unique(f[f > 0]).tolist()
    if not labels:
        raise InputError(
            f"{fixed.name} holds no label above 0; check that it is the label image of the fixed"
            " side"
        )
    return SurfaceDistances(
        {label: _between(f == label, w == label, fixed.grid.spacing) for label in labels}
    )


def _between(
    a: NDArray[np.bool_], b: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> SurfaceDistance | None:
    """Surface distances of two objects, ``a`` not empty."""
    from scipy.ndimage import distance_transform_edt, find_objects

    if not b.any():
        return None
    box = find_objects((a | b).astype(np.uint8))[0]
    surface_a, surface_b = _surface(a[box]), _surface(b[box])
    from_a = distance_transform_edt(~surface_b, sampling=spacing)[surface_a]
    from_b = distance_transform_edt(~surface_a, sampling=spacing)[surface_b]
    worse = max(np.percentile(from_a, 95), np.percentile(from_b, 95))
    return SurfaceDistance(float(worse), float(np.concatenate([from_a, from_b]).mean()))


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of ``mask`` with a face on the background; outside the image is background."""
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)


def _require_right_angles(grid: Grid) -> None:
    """The distance transform measures along index axes, so they must be orthogonal; a thousandth is
    what header rounding does.
    """
    if np.abs(grid.direction.T @ grid.direction - np.eye(grid.ndim)).max() > 1e-3:
        raise FrameError(
            f"{grid} has skewed axes, on which surface distances are not defined here; resample the"
            " labels to a grid with right angles"
        )
