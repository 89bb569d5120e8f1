"""Files and other libraries' objects: taken over as RAS mm with their grid, and written as each
format wants them.

One table of suffixes says which module knows a format; nibabel and SimpleITK are imported only
where a format needs them.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import EXPORTERS, Image, LabelImage, Points
from inrreg.io.points import pair_points
from inrreg.io.values import Volume

if TYPE_CHECKING:
    import nibabel as nib
    import SimpleITK as sitk  # noqa: N813  as everybody calls it

    from inrreg.core.image_pair import Correspondences
    from inrreg.transforms.dense_displacement import DenseDisplacement

__all__ = [
    "Image",
    "LabelImage",
    "as_image",
    "as_labels",
    "as_mask",
    "pair_points",
    "read_correspondences",
    "read_displacement",
    "read_image",
    "read_labels",
    "read_mask",
    "read_point_pairs",
    "read_points",
    "to_nibabel",
    "to_sitk",
    "write_correspondences",
    "write_displacement",
    "write_image",
    "write_point_pairs",
    "write_points",
]

IMAGES = dict.fromkeys([".nii.gz", ".nii"], "nifti") | dict.fromkeys(
    [".mha", ".mhd", ".nrrd", ".nhdr", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"], "itk"
)
POINTS = {".csv": "points", ".mrk.json": "slicer", ".fcsv": "slicer"}
PAIRS = {".csv": "points"}
DISPLACEMENTS = dict.fromkeys([".nii.gz", ".nii"], "displacement_file")

AnyImage = TypeVar("AnyImage", bound=Image)


def read_image(path: str | Path) -> Image:
    """The intensities of a two- or three-dimensional image file, RAS mm; pictures such as PNG have
    pixels of 1 mm.

    Raises:
        InputError: no such file, an unknown suffix, damaged, several volumes, colour, or a header
            that makes no grid.
    """
    return _volume(path).image()


def read_labels(path: str | Path) -> LabelImage:
    """The labels of an image file; raises what ``read_image`` raises.

    Raises:
        InputError: values that are no whole numbers.
    """
    return _volume(path).labels()


def read_mask(path: str | Path) -> Image:
    """1 ("use this") where a file of labels, of 0 and 1 or of 0 and 255 is above 0, else 0; raises
    what ``read_labels`` raises.
    """
    return read_labels(path).mask()


def write_image(image: Image, path: str | Path) -> None:
    """Write an image or label image in the array type it came in, rounded and clipped where that is
    an integer type.

    Raises:
        InputError: an unknown suffix, several channels, or values that its type cannot hold.
        OutputError: the file cannot be written.
    """
    _module(path, IMAGES).write(image, Path(path))


def as_image(source: Any, name: str) -> Image:
    """The intensities of a path, a nibabel image, a SimpleITK image or an image of ours; messages
    will call it ``name``. Raises what ``read_image`` raises.

    Raises:
        InputError: anything else.
    """
    if isinstance(source, LabelImage):
        image = Image(source.data.to(torch.float32), source.grid, source.name, source.dtype)
    else:
        image = source if isinstance(source, Image) else _taken_over(source, name).image()
    return _named(image, name)


def as_labels(source: Any, name: str) -> LabelImage:
    """The labels of what ``as_image`` takes.

    Raises:
        InputError: anything else, or values that are no whole numbers.
    """
    if isinstance(source, LabelImage):
        return _named(source, name)
    if isinstance(source, Image):
        return _named(
            replace(
                Volume(source.numpy(), source.grid, source.name).labels().to(source.device),
                dtype=source.dtype,
            ),
            name,
        )
    return _named(_taken_over(source, name).labels(), name)


def as_mask(source: Any, name: str) -> Image:
    """1 ("use this") where the labels of what ``as_image`` takes are above 0, else 0; raises what
    ``as_labels`` raises.
    """
    return as_labels(source, name).mask()


def read_points(path: str | Path) -> Points:
    """Landmarks in RAS mm: CSV with the header ``label,x,y,z``, Slicer's ``.mrk.json`` or
    ``.fcsv``.

    Raises:
        InputError: no such file, an unknown suffix, missing columns, cells that are no numbers.
    """
    return _module(path, POINTS).read(_existing(path))


def read_point_pairs(path: str | Path) -> tuple[Points, Points]:
    """Fixed and moving landmarks in RAS mm: CSV with the header
    ``label,fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z``.

    Raises:
        InputError: no such file, an unknown suffix, missing columns, cells that are no numbers.
    """
    return _module(path, PAIRS).read_pairs(_existing(path))


def write_points(points: Points, path: str | Path) -> None:
    """Write landmarks: ``.csv`` in RAS mm, or ``.mrk.json`` in LPS mm as Slicer does.

    Raises:
        InputError: an unknown suffix.
        OutputError: the file cannot be written.
    """
    _module(path, POINTS).write(points, Path(path))


def write_point_pairs(fixed: Points, moving: Points, path: str | Path) -> None:
    """Write corresponding landmarks side by side, CSV in RAS mm.

    Raises:
        InputError: an unknown suffix, or unequal numbers of points.
        OutputError: the file cannot be written.
    """
    _module(path, PAIRS).write_pairs(fixed, moving, Path(path))


def read_correspondences(path: str | Path) -> "Correspondences":
    """Matched points with the confidence of each, as ``write_correspondences`` wrote them.

    Raises:
        InputError: no such file, an unknown suffix, missing columns, cells that are no numbers.
    """
    found: Correspondences = _module(path, PAIRS).read_correspondences(_existing(path))
    return found


def write_correspondences(found: "Correspondences", path: str | Path) -> None:
    """Write matched points with the confidence of each, CSV in RAS mm; ``read_point_pairs`` reads
    the pairs.

    Raises:
        InputError: an unknown suffix.
        OutputError: the file cannot be written.
    """
    _module(path, PAIRS).write_correspondences(found, Path(path))


def read_displacement(path: str | Path) -> "DenseDisplacement":
    """The transform of a five-dimensional NIfTI with intent 1007 (LPS mm, what ITK, ANTs and Slicer
    write) or 1006 (RAS mm).

    Raises:
        InputError: no such file, another suffix, intent or shape, or vectors that are not finite.
    """
    return _module(path, DISPLACEMENTS).read(_existing(path))


def write_displacement(vectors: Float[Tensor, "*shape d"], grid: Grid, path: str | Path) -> None:
    """Write u (RAS mm at the voxels of ``grid``, fixed to moving) as a five-dimensional NIfTI,
    intent 1007, LPS mm: what ITK, ANTs and Slicer read.

    Raises:
        FrameError: vectors of another shape than the grid.
        InputError: another suffix.
        OutputError: the file cannot be written.
    """
    _module(path, DISPLACEMENTS).write(vectors, grid, Path(path))


def to_sitk(image: Image) -> "sitk.Image":
    """An image of ours (RAS) as SimpleITK's (LPS), in the type it came in, index order kept.

    Raises:
        InputError: several channels, or values that its type cannot hold.
    """
    converted: sitk.Image = import_module("inrreg.io.itk").to_sitk(image)
    return converted


def to_nibabel(image: Image) -> "nib.Nifti1Image":
    """An image of ours as nibabel's, RAS mm, in the type it came in.

    Raises:
        InputError: several channels, or values that its type cannot hold.
    """
    converted: nib.Nifti1Image = import_module("inrreg.io.nifti").to_nibabel(image)
    return converted


EXPORTERS.update(write_image=write_image, to_nibabel=to_nibabel)


def _volume(path: str | Path) -> Volume:
    return _module(path, IMAGES).read(_existing(path))


def _taken_over(source: Any, name: str) -> Volume:
    """A path or another library's image."""
    if isinstance(source, str | Path):
        return _volume(source)
    from nibabel.spatialimages import SpatialImage
    from SimpleITK import Image as ItkImage

    if isinstance(source, SpatialImage):
        return import_module("inrreg.io.nifti").volume_from_nibabel(source, name)
    if isinstance(source, ItkImage):
        return import_module("inrreg.io.itk").volume_from_sitk(source, name)
    raise InputError(
        f"{name} is a {type(source).__name__}; expected a path, a nibabel image, a SimpleITK image"
        " or an inrreg Image (an array becomes one by Image.from_array(array, grid))"
    )


def _named(image: AnyImage, name: str) -> AnyImage:
    """The image under the name of the argument it was given as, its own name kept behind it."""
    if image.name.startswith(name):
        return image
    return replace(image, name=name if image.name == Image.name else f"{name} ({image.name})")


def _module(path: str | Path, table: Mapping[str, str]) -> ModuleType:
    """The module of this package that knows the suffix of ``path``."""
    known = [suffix for suffix in table if Path(path).name.lower().endswith(suffix)]
    if not known:
        raise InputError(f"{path} has no known suffix; expected one of {', '.join(table)}")
    return import_module(f"{__name__}.{table[known[0]]}")


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise InputError(
            f"{path} is {'a folder' if Path(path).is_dir() else 'not there'}; expected a file"
            " (check the spelling)"
        )
    return Path(path)
