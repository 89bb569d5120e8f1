"""What a job would do, before it does it."""

from collections.abc import Iterator

import numpy as np

from inrreg.app.load import Job
from inrreg.app.memory import estimated_mb, scales_of
from inrreg.core.image import Image
from inrreg.ops.sampling import inside


def plan(job: Job) -> Iterator[tuple[str, str]]:
    """Name and finding, line by line: geometry, overlap, masks, stages and memory."""
    pair = job.pair
    yield "fixed", f"{pair.fixed.name}: {pair.fixed.grid}"
    yield "moving", f"{pair.moving.name}: {pair.moving.grid}"
    distance = float(np.linalg.norm(pair.fixed.grid.center - pair.moving.grid.center))
    yield (
        "overlap",
        (
            f"{overlap_percent(pair.fixed, pair.moving):.0f} % of the fixed image lies in the"
            f" moving one by the headers; centres {distance:.1f} mm apart"
        ),
    )
    for which, mask in (("fixed", pair.fixed_mask), ("moving", pair.moving_mask)):
        yield (
            f"{which} mask",
            (
                "none: the whole image counts"
                if mask is None
                else f"{100 * float(mask.data.mean()):.0f} % of the image"
            ),
        )
    for which, landmarks in (("landmarks", job.landmarks), ("guides", pair.guides)):
        if landmarks is not None:
            yield (
                which,
                (
                    f"{len(landmarks[0])} pairs,"
                    f" {float((landmarks[0].coords - landmarks[1].coords).norm(dim=-1).mean()):.1f}"
                    " mm apart on average"
                ),
            )
    yield (
        "preset",
        (
            f"{job.preset.name} ({job.preset.description}) on {job.device}, {job.threads} threads,"
            f" seed {job.seed}"
        ),
    )
    for stage in job.preset.stages:
        levels = ", ".join(
            f"{scale.spacing_mm:g} mm ({scale.iterations} iterations)" for scale in scales_of(stage)
        )
        yield "stage", f"{stage.name}: {levels}" if levels else stage.name
    yield (
        "memory",
        f"about {estimated_mb(job.pair, job.preset, 1 + len(job.contrasts)):.0f} MB at its peak",
    )


def overlap_percent(fixed: Image, moving: Image) -> float:
    """Share of the fixed grid that lies within the moving image by the headers, on a coarse
    lattice.
    """
    coarse = fixed.grid.resampled(float(fixed.grid.extent.max()) / 32)
    return 100 * float(inside(moving.grid, coarse.points()).mean())
