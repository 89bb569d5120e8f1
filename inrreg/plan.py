"""What a job would do, before it does it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from inrreg.image import Image
from inrreg.recipes import Job
from inrreg.sampling import inside

BYTES_PER_VOXEL = 220
"""Measured peak of a level with a local correlation, above the images themselves: sites, samples, and what backpropagation keeps."""


def plan(job: Job) -> Iterator[str]:
    """Lines on geometry, overlap, stages and memory."""
    pair = job.pair
    yield f"fixed   {pair.fixed.name}: {pair.fixed.grid}"
    yield f"moving  {pair.moving.name}: {pair.moving.grid}"
    apart = float(np.linalg.norm(pair.fixed.grid.center - pair.moving.grid.center))
    yield f"overlap {overlap_percent(pair.fixed, pair.moving):.0f} % of the fixed image lies in the moving one by the headers; centres {apart:.1f} mm apart"
    for which, mask in (("fixed", pair.fixed_mask), ("moving", pair.moving_mask)):
        yield f"{which} mask " + ("none: the whole image counts" if mask is None else f"{100 * float(mask.data.mean()):.0f} % of the image")
    yield f"preset  {job.preset.name}: {job.preset.description}; on {job.device}, seed {job.seed}"
    for stage in job.preset.stages:
        yield f"stage   {stage.name}{_levels(stage)}"
    yield f"memory  about {estimated_mb(job):.0f} MB at its peak"


def overlap_percent(fixed: Image, moving: Image) -> float:
    """Share of the fixed grid that lies within the moving image by the headers, on a coarse lattice."""
    coarse = fixed.grid.resampled(float(fixed.grid.extent.max()) / 32)
    return 100 * float(inside(moving.grid, coarse.points()).mean())


def estimated_mb(job: Job) -> float:
    """Peak memory: torch, both images, and the largest level."""
    finest = min((scale.spacing_mm for stage in job.preset.stages for scale in getattr(stage, "scales", ())), default=float("inf"))
    grid = job.pair.fixed.grid if not np.isfinite(finest) else job.pair.fixed.grid.resampled(finest)
    images = 4 * 3 * (job.pair.fixed.grid.n_voxels + job.pair.moving.grid.n_voxels)
    return (350e6 + images + BYTES_PER_VOXEL * grid.n_voxels) / 1e6


def _levels(stage: Any) -> str:
    scales = getattr(getattr(stage, "stage", stage), "scales", ())
    levels = ", ".join(f"{scale.spacing_mm:g} mm ({scale.iterations} iterations)" for scale in scales)
    return f": {levels}" if levels else ""
