"""The numbers of metrics.json: everything about a finished registration that is measured, not set.

Its keys are described in docs/outputs.md.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.core.image import Image, Points
from inrreg.core.image_pair import ImagePair
from inrreg.evaluation import (
    image_agreement,
    jacobian_determinant,
    jacobian_statistics,
    landmark_distances,
    landmark_error,
)
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Record, StageResult
from inrreg.transforms import Transform, identity
from inrreg.transforms.inverse import NumericInverse
from inrreg.transforms.warp import warped

SCHEMA = 1
INVERSE_POINTS = 2000

Landmarks = tuple[Points, Points]


@dataclass(frozen=True, eq=False)
class Rendered:
    """A map on the fixed grid: u in RAS mm, its Jacobian determinant, and the moving image carried
    by it and as the headers alone place it.
    """

    displacement: Float[Tensor, "*shape d"]
    determinant: Float[Tensor, "*shape"]
    warped: Image
    moving_by_headers: Image

    def to(self, device: torch.device | str) -> "Rendered":
        """The same on ``device``."""
        return Rendered(
            self.displacement.to(device),
            self.determinant.to(device),
            self.warped.to(device),
            self.moving_by_headers.to(device),
        )


@torch.no_grad()
def rendered(pair: ImagePair, transform: Transform) -> Rendered:
    """Everything of a finished map that lies on the fixed grid, each computed once."""
    grid = pair.fixed.grid
    displacement = transform.displacement_on(grid)
    by_headers = warped(pair.moving, torch.zeros_like(displacement), grid)
    return Rendered(
        displacement,
        jacobian_determinant(transform, grid),
        warped(pair.moving, displacement, grid),
        by_headers,
    )


def measurements(
    pair: ImagePair, transform: Transform, on_grid: Rendered, landmarks: Landmarks | None
) -> dict[str, Any]:
    """Similarity before and after, Jacobian, inverse and landmark error of a finished map."""
    mask = pair.fixed_mask
    metrics: dict[str, Any] = {
        "similarity": {
            "before": image_agreement(pair.fixed, on_grid.moving_by_headers, mask).to_json(),
            "after": image_agreement(pair.fixed, on_grid.warped, mask).to_json(),
        },
        "jacobian": {
            "region": "whole image" if mask is None else "fixed mask",
            **jacobian_statistics(on_grid.determinant, mask).to_json(),
        },
        "inverse": inverse_residual(transform, pair.fixed.grid, mask),
    }
    if landmarks is not None:
        metrics["landmarks"] = landmark_error(transform, *landmarks, pair.moving.grid).to_json()
    return metrics


def stage_entry(stage: StageResult, landmarks: Landmarks | None) -> dict[str, Any]:
    """What one stage did, its levels side by side from coarse to fine, and the landmark error after
    it where landmarks are given.
    """
    entry: dict[str, Any] = {
        "name": stage.name,
        "outcome": key(stage.outcome),
        "message": stage.outcome.value,
        "seconds": stage.seconds,
        "iterations": len(stage.history),
        "kept": stage.kept,
        **stage.notes,
    }
    if levels := levels_of(stage.history):
        entry |= {
            "level_mm": [level[0].level_mm for level in levels],
            "level_iterations": [len(level) for level in levels],
            "cost_first": [level[0].cost for level in levels],
            "cost_last": [level[-1].cost for level in levels],
        }
    if landmarks is not None:
        entry["landmarks"] = landmark_error(stage.transform, *landmarks).to_json()
    return entry


def levels_of(history: Sequence[Record]) -> list[list[Record]]:
    """The records of each level; costs of different levels are not comparable."""
    starts = [i for i, record in enumerate(history) if record.iteration == 0]
    return [list(history[a:b]) for a, b in pairwise([*starts, len(history)])]


@torch.no_grad()
def inverse_residual(transform: Transform, grid: Grid, mask: Image | None) -> dict[str, Any]:
    """|T(T^-1(y)) - y| in mm at evenly drawn points y = T(x) of the mask: whether the map can be
    inverted there.
    """
    inside = torch.ones(grid.shape, dtype=torch.bool) if mask is None else mask.data[0].cpu() > 0.5
    voxels = inside.nonzero()
    voxels = voxels[evenly(len(voxels), INVERSE_POINTS)]
    inverse = NumericInverse(transform)
    residual = inverse.residual(
        transform(grid.to_world(voxels.double()).to(transform.device))
    ).double()
    solved = residual <= inverse.tolerance_mm  # so written, NaN counts as not inverted
    return {
        "n": len(voxels),
        "residual_mean_mm": float(residual.mean()),
        "residual_max_mm": float(residual.max()),
        "not_inverted_percent": 100 * float((~solved).double().mean()),
    }


def evenly(n: int, count: int) -> Int[Tensor, " count"]:
    """``count`` of the numbers 0 ... n - 1 (all, where there are fewer), evenly drawn, both ends
    among them; n may be beyond what single precision tells apart.
    """
    return torch.linspace(0, n - 1, min(n, count), dtype=torch.float64).long()


def final_outcome(
    stages: Sequence[StageResult], folded_percent: float, folding_limit_percent: float
) -> Outcome:
    """The first stage that did not end well, else folding beyond the limit, else how the last stage
    ended. A stage that diverged but was not kept does no harm.
    """
    harmless = [stage.outcome is Outcome.DIVERGED and not stage.kept for stage in stages]
    failed = [
        stage.outcome
        for stage, skip in zip(stages, harmless, strict=True)
        if not stage.outcome.usable and not skip
    ]
    if failed:
        return failed[0]
    return Outcome.FOLDED if folded_percent > folding_limit_percent else stages[-1].outcome


def key(outcome: Outcome) -> str:
    """The name of an outcome in JSON, for instance ``iteration_limit``."""
    return outcome.name.lower()


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """The most memory the process has held so far, MB (Windows does not tell); on CUDA also the
    most on the device since the start of the run.

    On Linux from the process's own status, for getrusage there also counts what the parent held
    when it started this process.
    """
    memory = {}
    if (status := Path("/proc/self/status")).exists():
        peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        memory["process"] = int(peak.split()[1]) * 1024 / 1e6
    elif sys.platform != "win32":
        import resource

        memory["process"] = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024)
            / 1e6
        )
    if device.type == "cuda":
        memory["device"] = torch.cuda.max_memory_allocated(device) / 1e6
    return memory


def landmark_errors(transform: Transform, landmarks: Landmarks) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm before and after, one a landmark."""
    return (
        landmark_distances(identity(transform.ndim), *landmarks).numpy(),
        landmark_distances(transform, *landmarks).numpy(),
    )


def strict(value: Any) -> Any:
    """Numbers as strict JSON has them: no NaN and no infinity, which become null, and no array
    types.
    """
    if isinstance(value, Mapping):
        return {str(name): strict(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | Tensor):
        return strict(value.tolist())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [strict(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
