"""convexAdam (Siebert et al.), MIND features, its defaults, on both images at equal spacings."""

import SimpleITK
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt

from experiments.benchmarks.peers.adapters.frames import (
    Job,
    from_voxels,
    isotropic,
    main,
    resampled,
)


def register(job: Job, fixed: SimpleITK.Image, moving: SimpleITK.Image) -> SimpleITK.Image:
    """It gives voxels from fixed to moving along the axes of the arrays."""
    torch.set_num_threads(job.threads)
    grid = isotropic(fixed, job.isotropic_mm)
    arrays = [
        SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0).copy()
        for image in (grid, resampled(moving, grid))
    ]
    return from_voxels(convex_adam_pt(*arrays, device=torch.device("cpu")), grid, fixed)


if __name__ == "__main__":
    main("convexAdam", register)
