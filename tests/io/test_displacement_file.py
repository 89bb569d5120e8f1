"""Displacement fields that SimpleITK reads as the same map of points, and the other way round."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from worlds import Wave

from inrreg.core.errors import FrameError, InputError, OutputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.io import read_displacement, write_displacement
from inrreg.io.itk import to_sitk, transform_to_sitk
from inrreg.ops.sampling import linear
from inrreg.transforms import Affine, DenseDisplacement

TOLERANCE_MM = 1e-4
"""Vectors of 5 mm and headers 150 mm from the origin in single precision: 1e-5 mm each."""


def vectors_on(grid: Grid) -> torch.Tensor:
    """Rough on purpose: a wrong axis order or sign cannot hide in it."""
    return 5 * torch.randn(*grid.shape, grid.ndim, generator=torch.Generator().manual_seed(0))


def points_within(grid: Grid, n: int = 40) -> torch.Tensor:
    """World points between the voxel centres, double precision."""
    voxels = np.random.default_rng(1).uniform(0.01, np.array(grid.shape) - 1.01, (n, grid.ndim))
    return torch.as_tensor(voxels @ grid.matrix.T + grid.origin)


def mapped_by_itk(transform: sitk.Transform, points: torch.Tensor) -> np.ndarray:
    """Points through SimpleITK, with the signs of its frame written out."""
    signs = np.array([-1.0, -1.0, 1.0])[: points.shape[1]]
    return (
        np.array([transform.TransformPoint((p * signs).tolist()) for p in points.numpy()]) * signs
    )


def stored(path: Path, array: np.ndarray, grid: Grid, intent: int) -> Path:
    """A NIfTI file as another tool would write it."""
    axes = [*range(grid.ndim), 3]
    affine = np.eye(4)
    affine[np.ix_(axes, axes)] = grid.affine
    image = nib.Nifti1Image(array, affine)
    image.header.set_intent(intent, allow_unknown=True)
    nib.save(image, path)
    return path


def test_simpleitk_reads_the_same_map(grid: Grid, tmp_path: Path) -> None:
    vectors, points = vectors_on(grid), points_within(grid)
    write_displacement(vectors, grid, tmp_path / "u.nii.gz")
    field = sitk.ReadImage(tmp_path / "u.nii.gz", sitk.sitkVectorFloat64)
    assert field.GetSize() == grid.shape
    ours = DenseDisplacement(vectors, grid).double()(points).detach().numpy()
    np.testing.assert_allclose(
        mapped_by_itk(sitk.DisplacementFieldTransform(field), points), ours, atol=TOLERANCE_MM
    )


def test_we_read_what_simpleitk_writes(grid: Grid, tmp_path: Path) -> None:
    points = points_within(grid)
    field = sitk.GetImageFromArray(
        np.random.default_rng(2).normal(0, 5, (*reversed(grid.shape), grid.ndim)), isVector=True
    )
    field.CopyInformation(to_sitk(Image.from_array(np.zeros(grid.shape), grid)))
    sitk.WriteImage(field, tmp_path / "itk.nii.gz")
    theirs = mapped_by_itk(sitk.DisplacementFieldTransform(field), points)
    np.testing.assert_allclose(
        read_displacement(tmp_path / "itk.nii.gz").double()(points).numpy(),
        theirs,
        atol=TOLERANCE_MM,
    )


def test_round_trip(grid: Grid, tmp_path: Path) -> None:
    vectors = vectors_on(grid)
    write_displacement(vectors, grid, tmp_path / "u.nii")
    back = read_displacement(tmp_path / "u.nii")
    # a change of sign is exact
    torch.testing.assert_close(back.vectors.data, vectors, atol=0, rtol=0)
    assert back.grid.same_as(grid, 1e-3)
    assert not any(p.requires_grad for p in back.parameters())


def test_header(grid: Grid, tmp_path: Path) -> None:
    write_displacement(vectors_on(grid), grid, tmp_path / "u.nii.gz")
    image = nib.load(tmp_path / "u.nii.gz")
    assert image.shape == ((*grid.shape, 1, 3) if grid.ndim == 3 else (*grid.shape, 1, 1, 2))
    assert image.header["intent_code"] == 1007
    assert image.get_data_dtype() == np.float32
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    np.testing.assert_allclose(image.get_sform(), image.get_qform(), atol=1e-5)


def test_identical_fields_make_identical_files(grid: Grid, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_displacement(vectors_on(grid), grid, tmp_path / f"{name}.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_intent_1006_is_ras_on_disk(grid: Grid, tmp_path: Path) -> None:
    vectors, points = vectors_on(grid), points_within(grid)
    path = stored(
        tmp_path / "ras.nii",
        vectors.reshape(*grid.shape, *[1] * (4 - grid.ndim), grid.ndim).numpy(),
        grid,
        1006,
    )
    ours = read_displacement(path)
    torch.testing.assert_close(ours.vectors.data, vectors, atol=0, rtol=0)
    # Only since ITK 5.4 (SimpleITK 2.4) does it turn them to LPS, and in 2-D it still takes them
    # three numbers at a time.
    if grid.ndim == 3 and (sitk.Version_MajorVersion(), sitk.Version_MinorVersion()) >= (2, 4):
        field = sitk.DisplacementFieldTransform(sitk.ReadImage(path, sitk.sitkVectorFloat64))
        np.testing.assert_allclose(
            mapped_by_itk(field, points), ours.double()(points).numpy(), atol=TOLERANCE_MM
        )


def test_fields_without_a_stated_frame_are_refused(grid_3d: Grid, tmp_path: Path) -> None:
    array = vectors_on(grid_3d).numpy()
    for name, odd, intent, what in (
        ("four.nii", array, 0, "does not say in which frame"),
        ("four_1007.nii", array, 1007, "does not say in which frame"),
        ("five_0.nii", array[..., None, :], 0, "does not say in which frame"),
        ("times.nii", np.stack([array, array], 3), 1007, "one field a file"),
        ("pairs.nii", array[..., None, :2], 1007, "one field a file"),
        (
            "broken.nii",
            np.where(array[..., None, :] > 15, np.nan, array[..., None, :]),
            1007,
            "voxels whose displacement is not finite",
        ),
    ):
        with pytest.raises(InputError, match=f"{name}.*{what}"):
            read_displacement(stored(tmp_path / name, odd, grid_3d, intent))


def test_files_that_are_no_fields(grid_3d: Grid, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not there"):
        read_displacement(tmp_path / "none.nii.gz")
    with pytest.raises(InputError, match=r"u\.mha has no known suffix"):
        write_displacement(vectors_on(grid_3d), grid_3d, tmp_path / "u.mha")
    with pytest.raises(FrameError, match="has shape"):
        write_displacement(vectors_on(grid_3d)[1:], grid_3d, tmp_path / "u.nii")
    with pytest.raises(OutputError, match="could not be written"):
        write_displacement(vectors_on(grid_3d), grid_3d, tmp_path / "nowhere" / "u.nii")


def test_transform_to_sitk_maps_the_same_points(grid: Grid) -> None:
    # Linear interpolation of an affine map is exact; displacements are rendered in single
    # precision, 150 mm from the origin.
    matrix = torch.eye(grid.ndim, dtype=torch.float64) + 0.1 * torch.randn(
        grid.ndim, grid.ndim, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    affine = Affine.from_matrix(matrix, torch.linspace(-3, 4, grid.ndim), grid.center)
    points = points_within(grid)
    there = transform_to_sitk(affine, grid)
    np.testing.assert_allclose(
        mapped_by_itk(there, points), affine(points).detach().numpy(), atol=TOLERANCE_MM
    )
    np.testing.assert_allclose(there.GetDisplacementField().GetSize(), grid.shape)


def test_simpleitk_resamples_as_we_warp(grid: Grid, wave: Wave, image: Image) -> None:
    transform = DenseDisplacement(0.2 * vectors_on(grid), grid)
    warped = sitk.GetArrayFromImage(
        sitk.Resample(
            to_sitk(image), transform_to_sitk(transform, grid), sitk.sitkLinear, float("nan")
        )
    ).T
    ours = linear(image, transform(grid.points())).detach()[0].numpy()
    seen = np.isfinite(warped)
    assert seen.mean() > 0.5
    np.testing.assert_allclose(warped[seen], ours[seen], atol=1e-3 * np.abs(ours).max())
