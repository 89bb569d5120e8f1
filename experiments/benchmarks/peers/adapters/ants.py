"""ANTs (Avants et al.): SyNQuick, which is linear stages and then SyN on mutual information."""

from pathlib import Path

import ants
import SimpleITK

from experiments.benchmarks.peers.adapters.frames import Job, main


def register(job: Job, fixed: SimpleITK.Image, moving: SimpleITK.Image) -> SimpleITK.Image:
    """Its composed warp is on the fixed grid, LPS mm."""
    images = [
        _handed_over(image, Path(job.output) / f"{name}.nii.gz")
        for name, image in (("fixed", fixed), ("moving", moving))
    ]
    found = ants.registration(
        *images,
        type_of_transform=f"antsRegistrationSyNQuick[{'so' if job.aligned else 's'}]",
        random_seed=1,
        outprefix=f"{job.output}/ants_",
    )
    composed = ants.apply_transforms(
        *images, transformlist=found["fwdtransforms"], compose=f"{job.output}/composed_"
    )
    return SimpleITK.ReadImage(composed, SimpleITK.sitkVectorFloat64)


def _handed_over(image: SimpleITK.Image, path: Path) -> "ants.ANTsImage":
    """The same image of ANTs' own Python package, by a file."""
    SimpleITK.WriteImage(image, str(path))
    return ants.image_read(str(path))


if __name__ == "__main__":
    main("antspyx", register)
