"""Evaluation of a finished result by data that the fit did not use."""

from pathlib import Path
from typing import Any

from inrreg.app.metrics import strict
from inrreg.app.result import Result
from inrreg.core.checks import check_landmarks
from inrreg.core.errors import FrameError, InputError
from inrreg.evaluation import (
    jacobian_determinant,
    jacobian_statistics,
    label_overlap,
    landmark_error,
    surface_distances,
)
from inrreg.io import as_labels, read_labels, read_mask, read_point_pairs
from inrreg.transforms.warp import AnyImage


def evaluate_result(
    result: Result,
    *,
    landmarks: Path | None = None,
    fixed_labels: Path | None = None,
    moving_labels: Path | None = None,
    mask: Path | None = None,
) -> dict[str, Any]:
    """Landmark error, overlap and surface distance of labels, and the Jacobian inside ``mask`` (1
    means "use this"), as sections like those of metrics.json.

    Raises:
        InputError: one label image without the other, or a file that cannot be read.
        FrameError: a file that does not fit the grids of the result.
    """
    if (fixed_labels is None) != (moving_labels is None):
        raise InputError(
            "labels are compared in pairs: give both fixed and moving labels, or neither"
        )
    numbers = {"jacobian": _jacobian(result, mask)}
    if landmarks is not None:
        numbers["landmarks"] = _landmarks(result, landmarks)
    if fixed_labels is not None and moving_labels is not None:
        fixed = _on_fixed_grid(read_labels(fixed_labels), result)
        warped = as_labels(result.warp(read_labels(moving_labels)), "moving_labels")
        numbers |= {
            "overlap": label_overlap(fixed, warped).to_json(),
            "surface": surface_distances(fixed, warped).to_json(),
        }
    return strict(numbers)


def _on_fixed_grid(image: AnyImage, result: Result) -> AnyImage:
    if not image.grid.same_as(result.grid):
        raise FrameError(
            f"{image.name} lies on {image.grid}, but the result on {result.grid}; give an image on"
            " the fixed grid"
        )
    return image


def _jacobian(result: Result, mask: Path | None) -> dict[str, Any]:
    region = None if mask is None else _on_fixed_grid(read_mask(mask), result)
    return {
        "region": "whole image" if region is None else "mask",
        **jacobian_statistics(
            jacobian_determinant(result.transform, result.grid), region
        ).to_json(),
    }


def _landmarks(result: Result, path: Path) -> dict[str, Any]:
    fixed, moving = read_point_pairs(path)
    check_landmarks(fixed, result.grid, fixed.name)
    check_landmarks(moving, result.moving_grid, moving.name)
    return landmark_error(result.transform, fixed, moving, result.moving_grid).to_json()
