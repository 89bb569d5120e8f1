"""The numbers of metrics.json: everything about a finished registration that is measured, not set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.evaluation import image_agreement, jacobian_determinant, jacobian_statistics, landmark_error
from inrreg.image import Image, Points
from inrreg.optimisation import Outcome
from inrreg.pair import Pair
from inrreg.space import Grid
from inrreg.stage import StageResult
from inrreg.transforms import Transform, identity
from inrreg.transforms.inverse import NumericInverse
from inrreg.warp import warp

SCHEMA = 1
INVERSE_POINTS = 2000

Landmarks = tuple[Points, Points]


def stage_entry(stage: StageResult, landmarks: Landmarks | None) -> dict[str, Any]:
    """What one stage did, and the landmark error after it where landmarks are given."""
    entry: dict[str, Any] = {"name": stage.name, "outcome": stage.outcome.label, "message": stage.outcome.value, "iterations": len(stage.history), "seconds": stage.seconds, **stage.notes}
    if stage.history:
        entry["cost_first"], entry["cost_last"] = stage.history[0].cost, stage.history[-1].cost
    if landmarks is not None:
        entry["landmarks"] = landmark_error(stage.transform, *landmarks).to_json()
    return entry


def measurements(pair: Pair, transform: Transform, determinant: Float[Tensor, "*shape"], warped: Image, moving_on_fixed: Image, landmarks: Landmarks | None) -> dict[str, Any]:
    """Similarity before and after, Jacobian, inverse and landmark error of a finished map; images and ``determinant`` on the fixed grid."""
    mask = pair.fixed_mask
    metrics: dict[str, Any] = {
        "similarity": {"before": image_agreement(pair.fixed, moving_on_fixed, mask).to_json(), "after": image_agreement(pair.fixed, warped, mask).to_json()},
        "jacobian": {"region": "whole image" if mask is None else "fixed mask", **jacobian_statistics(determinant, mask).to_json()},
        "inverse": inverse_residual(transform, pair.fixed.grid, mask),
    }
    if landmarks is not None:
        metrics["landmarks"] = landmark_error(transform, *landmarks, pair.moving.grid).to_json()
    return metrics


def inverse_residual(transform: Transform, grid: Grid, mask: Image | None) -> dict[str, Any]:
    """|T(T^-1(y)) - y| in mm at evenly drawn points y = T(x) of the mask: whether the map can be inverted there."""
    inside = torch.ones(grid.shape, dtype=torch.bool) if mask is None else mask.data[0].cpu() > 0
    voxels = inside.nonzero()
    voxels = voxels[torch.linspace(0, len(voxels) - 1, min(len(voxels), INVERSE_POINTS)).long()]
    inverse = NumericInverse(transform)
    with torch.no_grad():
        residual = inverse.residual(transform(grid.to_world(voxels.double()).to(transform.device))).double()
    failed = 100 * float((residual > inverse.tolerance_mm).double().mean())
    return {"n": len(voxels), "residual_mean_mm": float(residual.mean()), "residual_max_mm": float(residual.max()), "not_inverted_percent": failed}


def final_outcome(stages: Sequence[StageResult], folded_percent: float, folding_limit_percent: float) -> Outcome:
    """The first stage that did not end well, else folding beyond the limit, else how the last stage ended."""
    failed = [stage.outcome for stage in stages if not stage.outcome.usable]
    if failed:
        return failed[0]
    return Outcome.FOLDED if folded_percent > folding_limit_percent else stages[-1].outcome


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """The most memory the process has held so far, MB; on CUDA also the most on the device."""
    import resource
    import sys

    unit = 1e6 if sys.platform == "darwin" else 1e3
    memory = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if device.type == "cuda":
        memory["device"] = torch.cuda.max_memory_allocated(device) / 1e6
    return memory


def landmark_errors(transform: Transform, landmarks: Landmarks) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm before and after, one a landmark."""
    from inrreg.evaluation import landmark_distances

    fixed, moving = landmarks
    return landmark_distances(identity(transform.ndim), fixed, moving).numpy(), landmark_distances(transform, fixed, moving).numpy()


def on_fixed_grid(pair: Pair, transform: Transform) -> tuple[Image, Image, Float[Tensor, "*shape"]]:
    """The warped image, the moving image as the headers place it, and the Jacobian determinant, all on the fixed grid."""
    grid = pair.fixed.grid
    return warp(pair.moving, transform, grid), warp(pair.moving, identity(grid.ndim), grid), jacobian_determinant(transform, grid)
