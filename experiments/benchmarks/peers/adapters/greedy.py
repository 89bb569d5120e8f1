"""greedy (Yushkevich et al.): affine, then a diffeomorphic field, both by NCC of 2x2x2 patches."""

from pathlib import Path

import SimpleITK
from picsl_greedy import Greedy3D

from experiments.benchmarks.peers.adapters.frames import Job, main


def register(job: Job, fixed: SimpleITK.Image, moving: SimpleITK.Image) -> SimpleITK.Image:
    """Its composed warp is on the fixed grid, LPS mm."""
    folder = Path(job.output)
    greedy = Greedy3D()
    common = f"-threads {job.threads} -V 0 -i fixed moving -m NCC 2x2x2"
    affine, warp, composed = (
        folder / name for name in ("affine.mat", "warp.nii.gz", "composed.nii.gz")
    )
    if not job.aligned:
        greedy.execute(
            f"{common} -a -dof 12 -ia-identity -n 100x50x10 -o {affine}", fixed=fixed, moving=moving
        )
    linear = "" if job.aligned else str(affine)
    greedy.execute(
        f"{common} {f'-it {linear}' if linear else ''} -n 100x100x50 -o {warp}",
        fixed=fixed,
        moving=moving,
    )
    greedy.execute(
        f"-threads {job.threads} -V 0 -rf fixed -rc {composed} -r {warp} {linear}", fixed=fixed
    )
    return SimpleITK.ReadImage(str(composed), SimpleITK.sitkVectorFloat64)


if __name__ == "__main__":
    main("picsl-greedy", register)
