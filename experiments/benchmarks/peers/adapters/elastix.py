"""elastix (Klein et al.), its default parameter maps: affine, then B-splines with a final grid of
10 mm.
"""

from pathlib import Path

import itk
import SimpleITK

from experiments.benchmarks.peers.adapters.frames import Job, main

GRID_MM = 10.0


def register(job: Job, fixed: SimpleITK.Image, moving: SimpleITK.Image) -> SimpleITK.Image:
    """Its deformation field is on the fixed grid, LPS mm."""
    images = [
        _handed_over(image, Path(job.output) / f"{name}.mha")
        for name, image in (("fixed", fixed), ("moving", moving))
    ]
    parameters = itk.ParameterObject.New()
    if not job.aligned:
        parameters.AddParameterMap(parameters.GetDefaultParameterMap("affine"))
    parameters.AddParameterMap(parameters.GetDefaultParameterMap("bspline", 4, GRID_MM))
    _, found = itk.elastix_registration_method(
        *images, parameter_object=parameters, number_of_threads=job.threads, log_to_console=False
    )
    field = itk.transformix_deformation_field(images[1], found)
    result = SimpleITK.GetImageFromArray(itk.array_from_image(field), isVector=True)
    result.CopyInformation(fixed)
    return result


def _handed_over(image: SimpleITK.Image, path: Path) -> "itk.Image":
    """The same image of ITK's own Python package, by a file."""
    SimpleITK.WriteImage(image, str(path))
    return itk.imread(str(path), itk.F)


if __name__ == "__main__":
    main("itk-elastix", register)
