"""What every adapter shares: the job it is given, and displacements carried between grids.

Physical space is that of SimpleITK, LPS mm.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK


@dataclass(frozen=True)
class Job:
    """Files of a pair; ``start_mm`` is the translation from fixed to moving points (LPS) that all
    tools start from, ``aligned`` says that no linear stage is wanted.
    """

    fixed: str
    moving: str
    output: str
    threads: int
    isotropic_mm: float
    aligned: bool
    start_mm: tuple[float, float, float]


Register = Callable[[Job, SimpleITK.Image, SimpleITK.Image], SimpleITK.Image]
"""Fixed and moving image, the latter moved by the start -> u on the fixed grid, mm: x + u(x) is the
point of that moving image.
"""


def main(package: str, register: Register) -> None:
    """Read the job named on the command line, run it, and write ``displacement.nii.gz`` (5-D,
    intent 1007, LPS) and ``run.json`` to its output.
    """
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    fixed, moving = (
        SimpleITK.ReadImage(path, SimpleITK.sitkFloat32) for path in (job.fixed, job.moving)
    )
    moving.SetOrigin((np.array(moving.GetOrigin()) - job.start_mm).tolist())
    started = time.perf_counter()
    found = register(job, fixed, moving)
    seconds = time.perf_counter() - started
    total = SimpleITK.GetImageFromArray(
        SimpleITK.GetArrayFromImage(found) + np.array(job.start_mm), isVector=True
    )
    total.CopyInformation(fixed)
    SimpleITK.WriteImage(
        SimpleITK.Cast(total, SimpleITK.sitkVectorFloat32),
        str(Path(job.output) / "displacement.nii.gz"),
    )
    (Path(job.output) / "run.json").write_text(
        json.dumps({"register_s": seconds, "version": importlib.metadata.version(package)}),
        encoding="utf-8",
    )


def isotropic(image: SimpleITK.Image, spacing_mm: float) -> SimpleITK.Image:
    """``image`` on a grid of equal spacings that begins where it begins and covers it."""
    size = [
        int(np.ceil((n - 1) * h / spacing_mm)) + 1
        for n, h in zip(image.GetSize(), image.GetSpacing(), strict=True)
    ]
    grid = SimpleITK.Image(size, SimpleITK.sitkFloat32)
    grid.SetOrigin(image.GetOrigin())
    grid.SetDirection(image.GetDirection())
    grid.SetSpacing((spacing_mm,) * 3)
    return resampled(image, grid)


def resampled(image: SimpleITK.Image, grid: SimpleITK.Image) -> SimpleITK.Image:
    """``image`` at the voxels of ``grid``, linear, its least value beyond it."""
    return SimpleITK.Resample(
        image,
        grid,
        SimpleITK.Transform(),
        SimpleITK.sitkLinear,
        float(SimpleITK.GetArrayViewFromImage(image).min()),
    )


def from_voxels(
    displacement: np.ndarray, grid: SimpleITK.Image, fixed: SimpleITK.Image
) -> SimpleITK.Image:
    """u in mm on the grid of ``fixed``, from [i, j, k, 3] in voxels of ``grid`` along its own
    axes.
    """
    direction = np.reshape(grid.GetDirection(), (3, 3))
    vectors = (displacement * grid.GetSpacing()) @ direction.T
    field = SimpleITK.GetImageFromArray(
        np.ascontiguousarray(vectors.transpose(2, 1, 0, 3)), isVector=True
    )
    field.CopyInformation(grid)
    return SimpleITK.Resample(
        field, fixed, SimpleITK.Transform(), SimpleITK.sitkLinear, 0.0, SimpleITK.sitkVectorFloat64
    )
