"""SimpleITK: its images and transforms as ours and back, and the formats it reads (MetaImage, NRRD,
PNG and other pictures).
"""

import logging
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  as everybody calls it

from inrreg.core.errors import InputError, OutputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.io.lps import flip
from inrreg.io.values import Volume, check_scalar, grid_of, spatial_shape, stored_values
from inrreg.transforms.base import Transform

log = logging.getLogger(__name__)

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Formats without a patient frame: their pixels are 1 mm, the first at the world origin."""


def read(path: Path) -> Volume:
    """The volume of any file that SimpleITK reads; pictures have pixels of 1 mm.

    Raises:
        InputError: a damaged file, several volumes, or colour.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path} cannot be read ({_reason(error)}); check that it was copied whole"
        ) from error
    if path.suffix.lower() in PICTURES:
        image = _on_pixels(image)
    return volume_from_sitk(image, str(path))


def write(image: Image, path: Path) -> None:
    """Write an image in the type it came in.

    Raises:
        InputError: several channels, or values that its type cannot hold.
        OutputError: the file cannot be written, or its format does not hold this type or dimension.
    """
    stored = to_sitk(image)
    if path.suffix.lower() in PICTURES and not image.grid.same_as(_pixel_grid(image.grid.shape)):
        log.warning(
            "%s keeps no voxel size and no place: %s is read back with pixels of 1 mm; write"
            " .nii.gz or .mha to keep them",
            path,
            image.name,
        )
    try:
        sitk.WriteImage(stored, str(path))
    except RuntimeError as error:
        raise OutputError(
            f"{path} could not be written ({_reason(error)}); check its folder, or write .nii.gz or"
            " .mha, which hold every type"
        ) from error


def image_from_sitk(image: sitk.Image, name: str) -> Image:
    """A SimpleITK image (LPS) as ours (RAS), index order kept; raises what ``volume_from_sitk``
    raises.
    """
    return volume_from_sitk(image, name).image()


def volume_from_sitk(image: sitk.Image, name: str) -> Volume:
    """A SimpleITK image (LPS) placed in RAS, index order kept.

    Raises:
        InputError: colour or vectors, several volumes, an axis of one voxel.
        FrameError: a singular direction matrix.
    """
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(
            f"{name} has {image.GetNumberOfComponentsPerPixel()} components a voxel (colour or"
            " vectors), and an image here has one; convert colour to grey first, for instance with"
            " `PIL.Image.open(path).convert('L')`"
        )
    array = sitk.GetArrayFromImage(image).T
    check_scalar(array.dtype, name)
    shape = spatial_shape(array.shape, name)
    return Volume(array.reshape(shape), _grid(image, shape, name), name)


def to_sitk(image: Image) -> sitk.Image:
    """Our image (RAS) as SimpleITK's (LPS), in the type it came in, index order kept.

    Raises:
        InputError: several channels, or values that its type cannot hold.
    """
    return _placed(sitk.GetImageFromArray(stored_values(image).T), image.grid)


def transform_to_sitk(transform: Transform, grid: Grid) -> sitk.DisplacementFieldTransform:
    """A transform sampled at the voxels of ``grid``, for SimpleITK's resampling; beyond the grid it
    is the identity there, as ITK has it.
    """
    vectors = flip(transform.displacement_on(grid).detach().cpu().double().numpy())
    # SimpleITK wants the array axes backwards and the components last.
    field = sitk.GetImageFromArray(
        vectors.transpose(*reversed(range(grid.ndim)), grid.ndim), isVector=True
    )
    return sitk.DisplacementFieldTransform(_placed(field, grid))


def _grid(image: sitk.Image, shape: tuple[int, ...], name: str) -> Grid:
    d = len(shape)
    columns = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2) * image.GetSpacing()
    affine = np.eye(d + 1)
    affine[:d, :d] = flip(columns[:d, :d].T).T
    affine[:d, d] = flip(np.array(image.GetOrigin()[:d]))
    return grid_of(shape, affine, name)


def _placed(image: sitk.Image, grid: Grid) -> sitk.Image:
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(flip(grid.origin).tolist())
    image.SetDirection(flip(grid.direction.T).T.ravel().tolist())
    return image


def _pixel_grid(shape: tuple[int, ...]) -> Grid:
    """Where the pixels of a picture lie: 1 mm apart, rows and columns along ITK's axes."""
    return Grid.from_spacing(shape, 1.0, direction=np.diag(flip(np.ones(len(shape)))))


def _on_pixels(image: sitk.Image) -> sitk.Image:
    return _placed(image, _pixel_grid(image.GetSize()))


def _reason(error: RuntimeError) -> str:
    """The last line of SimpleITK's report, which says what went wrong."""
    return str(error).strip().splitlines()[-1].removeprefix("sitk::ERROR: ")
