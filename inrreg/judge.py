"""Judging a finished result by what the fit has not seen."""

from pathlib import Path
from typing import Any

from inrreg.errors import InputError
from inrreg.evaluation import jacobian_determinant, jacobian_statistics, label_overlap, landmark_error, surface_distances
from inrreg.io import read_image, read_labels, read_mask, read_point_pairs
from inrreg.result import Result


def judged(
    result: Result, *, landmarks: Path | None = None, fixed_labels: Path | None = None, moving_labels: Path | None = None, mask: Path | None = None, moving: Path | None = None
) -> dict[str, Any]:
    """Landmark error, overlap and surface distance of labels, and the Jacobian inside ``mask``, as nested numbers like those of metrics.json.

    Raises:
        InputError: one label image without the other, or files that do not fit the result's grid.
    """
    if (fixed_labels is None) != (moving_labels is None):
        raise InputError("labels are compared in pairs: give --fixed-labels and --moving-labels, or neither")
    numbers: dict[str, Any] = {}
    if landmarks is not None:
        numbers["landmarks"] = landmark_error(result.transform, *read_point_pairs(landmarks), None if moving is None else read_image(moving).grid).to_json()
    if fixed_labels is not None and moving_labels is not None:
        fixed = read_labels(fixed_labels)
        warped = result.warp(read_labels(moving_labels))
        numbers["overlap"] = label_overlap(fixed, warped).to_json()
        numbers["surface"] = surface_distances(fixed, warped).to_json()
    region = None if mask is None else read_mask(mask)
    numbers["jacobian"] = jacobian_statistics(jacobian_determinant(result.transform, result.grid), region).to_json()
    return numbers
