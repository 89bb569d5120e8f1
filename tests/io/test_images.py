"""Images through nibabel and SimpleITK: the same voxel at the same world point, whichever way it
comes and goes.
"""

import gzip
import logging
import time
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from worlds import oblique

from inrreg.core.errors import FrameError, InputError, OutputError, RegistrationError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.io import as_image, as_labels, as_mask, read_image, read_labels, read_mask, write_image
from inrreg.io.itk import image_from_sitk, to_sitk
from inrreg.ops.sampling import linear

HEADER_MM = 1e-4
"""Headers hold single precision: about 1e-7 of the 150 mm that these grids lie from the world
origin, times a few operations.
"""
BLOB = (3, 2, 5)
ORIENTATIONS = [
    np.column_stack([order, signs])
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
"""The 48 ways to flip and permute three axes, as nibabel writes them."""
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def blob_image() -> tuple[nib.Nifti1Image, np.ndarray]:
    """An oblique, anisotropic, off-centre NIfTI with its largest value at a known world point."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = oblique(3) * (0.7, 0.9, 2.5), (-31.0, 47.0, 112.0)
    array = np.random.default_rng(0).random((7, 5, 8)).astype(np.float32)
    array[BLOB] = 9.0
    return nib.Nifti1Image(array, affine), nib.affines.apply_affine(affine, BLOB)


def brightest(image: Image) -> np.ndarray:
    voxel = np.unravel_index(int(image.data.argmax()), image.grid.shape)
    return image.grid.to_world(torch.tensor([voxel], dtype=torch.float64))[0].numpy()


def nifti(
    shape: tuple[int, ...] = (4, 5, 6),
    affine: np.ndarray | None = None,
    dtype: type | np.dtype = np.float32,
) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(shape, dtype), np.eye(4) if affine is None else affine)


@pytest.mark.parametrize(
    "orientation",
    ORIENTATIONS,
    ids=lambda orientation: "".join(nib.orientations.ornt2axcodes(orientation)),
)
def test_every_orientation_of_one_array_is_the_same_image(
    orientation: np.ndarray, tmp_path: Path
) -> None:
    original, world = blob_image()
    turned = original.as_reoriented(orientation)
    nib.save(turned, tmp_path / "turned.nii")
    points = torch.as_tensor(
        nib.affines.apply_affine(
            original.affine, np.random.default_rng(1).uniform(0, (6, 4, 7), (50, 3))
        )
    )
    expected = linear(as_image(original, "original"), points)
    for image in (
        read_image(tmp_path / "turned.nii"),
        as_image(sitk.ReadImage(tmp_path / "turned.nii"), "by SimpleITK"),
        as_image(turned, "turned"),
    ):
        np.testing.assert_allclose(brightest(image), world, atol=HEADER_MM)
        # Values change by about 10 per voxel: the header's rounding moves them by less than 10 *
        # 1e-4 / 0.7.
        torch.testing.assert_close(linear(image, points), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_round_trip(suffix: str, dtype: type, grid: Grid, tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 200, grid.shape).astype(dtype)
    path = tmp_path / f"image{suffix}"
    write_image(Image.from_array(array, grid), path)
    back = read_image(path)
    np.testing.assert_array_equal(back.numpy(), array)
    assert back.dtype == dtype
    # same_as sums the error of every axis
    assert back.grid.same_as(grid, HEADER_MM * 10), back.grid
    by_itk = as_image(sitk.ReadImage(path), "by SimpleITK")
    np.testing.assert_array_equal(by_itk.numpy(), array)
    assert by_itk.grid.same_as(grid, HEADER_MM * 10), by_itk.grid


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_have_pixels_of_one_mm(
    dtype: type, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (12, 9)).astype(dtype)
    placed = sitk.GetImageFromArray(array.T)
    write_image(as_image(placed, "placed"), tmp_path / "a.png")
    assert not caplog.records
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image.numpy(), array)
    assert image.dtype == dtype
    assert image.grid.same_as(as_image(placed, "placed").grid)
    assert image.grid.spacing.tolist() == [1.0, 1.0]


def test_picture_resolution_is_no_voxel_size(tmp_path: Path) -> None:
    picture = sitk.Image(8, 6, sitk.sitkUInt8)
    picture.SetSpacing((0.2, 0.2))
    sitk.WriteImage(picture, tmp_path / "a.tif")
    assert sitk.ReadImage(tmp_path / "a.tif").GetSpacing()[0] == pytest.approx(0.2, rel=0.01)
    assert read_image(tmp_path / "a.tif").grid.spacing.tolist() == [1.0, 1.0]


def test_writing_a_picture_warns_that_the_frame_is_lost(
    grid_2d: Grid, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(Image.from_array(np.ones(grid_2d.shape, np.uint8), grid_2d), tmp_path / "a.png")
    assert "no voxel size" in caplog.text


def test_itk_places_voxels_where_we_do(grid: Grid) -> None:
    array = np.random.default_rng(4).random(grid.shape).astype(np.float32)
    there = to_sitk(Image.from_array(array, grid))
    assert there.GetSize() == grid.shape
    for index in np.random.default_rng(5).integers(0, grid.shape, (20, grid.ndim)).tolist():
        world = grid.matrix @ index + grid.origin
        world[:2] *= -1
        np.testing.assert_allclose(there.TransformIndexToPhysicalPoint(index), world, atol=1e-9)
        assert there[tuple(index)] == array[tuple(index)]
    back = image_from_sitk(there, "back")
    np.testing.assert_array_equal(back.numpy(), array)
    assert back.grid.same_as(grid, 1e-9)


def test_scale_factors_are_applied(tmp_path: Path) -> None:
    image = nifti(dtype=np.int16)
    image.header.set_slope_inter(0.5, -100.0)
    raw = bytearray(image.to_bytes())
    raw[352:] = np.full(120, 7, "<i2").tobytes()  # to_bytes would divide by the slope
    (tmp_path / "scaled.nii").write_bytes(bytes(raw))
    read = read_image(tmp_path / "scaled.nii")
    assert read.data.unique().tolist() == [7 * 0.5 - 100.0]
    assert read.dtype == np.float32


def test_big_endian(tmp_path: Path) -> None:
    image = nib.Nifti1Image(
        np.arange(120, dtype=">i2").reshape(4, 5, 6), np.eye(4), nib.Nifti1Header(endianness=">")
    )
    image.header.set_data_dtype(">i2")
    nib.save(image, tmp_path / "big.nii")
    assert nib.load(tmp_path / "big.nii").header.endianness == ">"
    read = read_image(tmp_path / "big.nii")
    np.testing.assert_array_equal(read.numpy(), np.arange(120).reshape(4, 5, 6))
    assert read.dtype == np.dtype("<i2").newbyteorder("=")


def test_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    array = np.random.default_rng(6).random((4, 5, 6, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii").numpy(), array[..., 0])
    stack = sitk.JoinSeries([sitk.GetImageFromArray(array[..., 0].T)])
    assert stack.GetDimension() == 4
    np.testing.assert_array_equal(as_image(stack, "stack").numpy(), array[..., 0])


def test_two_dimensional_nifti_takes_the_plane(tmp_path: Path) -> None:
    affine = np.eye(4)
    affine[:2, :2], affine[:3, 3] = oblique(2) * (0.7, 0.9), (5.0, -6.0, 80.0)
    nib.save(nib.Nifti1Image(np.zeros((4, 5), np.float32), affine), tmp_path / "plane.nii")
    grid = read_image(tmp_path / "plane.nii").grid
    assert grid.same_as(Grid.from_spacing((4, 5), (0.7, 0.9), (5.0, -6.0), oblique(2)), HEADER_MM)


@pytest.mark.parametrize("unit", ["micron", "mm", "meter", "unknown"])
def test_units_of_the_header(unit: str, tmp_path: Path) -> None:
    image = nifti(affine=np.array([[2.0, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]))
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "a.nii")
    by_itk = as_image(sitk.ReadImage(tmp_path / "a.nii"), "by SimpleITK").grid
    assert read_image(tmp_path / "a.nii").grid.same_as(by_itk, 1e-6 * by_itk.extent.max())


class TestForms:
    """sform and qform: which is used, and what is said about it."""

    @staticmethod
    def image(sform: np.ndarray | None, qform: np.ndarray | None) -> nib.Nifti1Image:
        image = nib.Nifti1Image(np.zeros((11, 5, 6), np.float32), None)
        image.header.set_zooms((2.0, 3.0, 4.0))
        image.set_sform(sform, code=int(sform is not None))
        image.set_qform(qform, code=int(qform is not None))
        return image

    @staticmethod
    def turned(degrees: float) -> np.ndarray:
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        affine = np.eye(4)
        affine[:2, :2] = [[c, -s], [s, c]]
        return affine

    def test_disagreement_is_reported_in_mm(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        nib.save(self.image(self.turned(0), self.turned(5)), tmp_path / "two.nii")
        grid = read_image(tmp_path / "two.nii").grid
        np.testing.assert_allclose(grid.affine, np.eye(4))
        # The far corner lies sqrt(10^2 + 4^2) mm from the axis of the turn: the chord over 5
        # degrees.
        assert f"{2 * np.sin(np.deg2rad(2.5)) * np.hypot(10, 4):.3g} mm" in caplog.text
        assert "two.nii" in caplog.text
        assert "sform is used" in caplog.text

    def test_agreement_is_silent(self, caplog: pytest.LogCaptureFixture) -> None:
        as_image(self.image(self.turned(30), self.turned(30)), "same")
        assert not caplog.records

    def test_qform_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        np.testing.assert_allclose(
            as_image(self.image(None, self.turned(30)), "qform").grid.affine,
            self.turned(30),
            atol=1e-6,
        )
        assert not caplog.records

    def test_sform_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        np.testing.assert_allclose(
            as_image(self.image(self.turned(30), None), "sform").grid.affine,
            self.turned(30),
            atol=1e-6,
        )
        assert not caplog.records

    def test_neither_is_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        grid = as_image(self.image(None, None), "nowhere").grid
        assert grid.spacing.tolist() == [2.0, 3.0, 4.0]
        np.testing.assert_allclose(grid.center, 0, atol=1e-9)
        assert "nowhere has neither sform nor qform" in caplog.text

    def test_broken_qform(self) -> None:
        image = self.image(None, self.turned(30))
        image.header["quatern_b"] = 3.0
        with pytest.raises(InputError, match="broken has a broken qform"):
            as_image(image, "broken")


class TestRefusals:
    """What cannot be registered is answered with the name of the file and what to do."""

    def refused(self, path: Path, what: str, error: type[RegistrationError] = InputError) -> None:
        with pytest.raises(error, match=what) as report:
            read_image(path)
        assert path.name in str(report.value)

    @pytest.mark.parametrize(
        ("image", "what"),
        [
            (nifti((4, 5, 6, 7)), "7 volumes"),
            (nifti((4, 5, 6, 1, 3)), "3 volumes"),
            (nifti((4, 5, 1)), "two or three axes of at least two voxels"),
            (nifti((4, 1)), "two or three axes of at least two voxels"),
            (nifti((40,)), "two or three axes of at least two voxels"),
            (nifti(dtype=RGB), "grey"),
            (nifti(dtype=np.complex64), "magnitude"),
            (
                nifti((4, 5), np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])),
                "not parallel to world x-y",
            ),
        ],
        ids=["4-D", "5-D", "one slice", "one row", "1-D", "RGB", "complex", "coronal plane"],
    )
    def test_nifti(self, image: nib.Nifti1Image, what: str, tmp_path: Path) -> None:
        nib.save(image, tmp_path / "odd.nii")
        self.refused(tmp_path / "odd.nii", what)

    def test_singular_affine(self, tmp_path: Path) -> None:
        image = nifti()
        image.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
        nib.save(image, tmp_path / "flat.nii")
        self.refused(tmp_path / "flat.nii", "singular", FrameError)

    def test_missing(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "none.nii.gz", "not there")

    def test_folder(self, tmp_path: Path) -> None:
        (tmp_path / "folder.nii").mkdir()
        self.refused(tmp_path / "folder.nii", "is a folder")

    def test_unknown_suffix(self, tmp_path: Path) -> None:
        (tmp_path / "a.xyz").write_text("")
        self.refused(tmp_path / "a.xyz", r"expected one of \.nii\.gz, .*\.png")
        with pytest.raises(InputError, match="no known suffix"):
            write_image(as_image(nifti(), "image"), tmp_path / "b.xyz")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".png"])
    def test_garbage(self, suffix: str, tmp_path: Path) -> None:
        (tmp_path / f"bad{suffix}").write_bytes(b"this is no image\n" * 40)
        self.refused(tmp_path / f"bad{suffix}", "copied whole")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
    def test_cut_off(self, suffix: str, tmp_path: Path) -> None:
        path = tmp_path / f"cut{suffix}"
        array = np.random.default_rng(7).random((20, 20, 20)).astype(np.float32)
        write_image(Image.from_array(array, Grid.from_spacing(array.shape, 1.0)), path)
        path.write_bytes(path.read_bytes()[:8000])
        self.refused(path, "copied whole")

    def test_colour_picture(self, tmp_path: Path) -> None:
        sitk.WriteImage(sitk.Image([4, 5], sitk.sitkVectorUInt8, 3), tmp_path / "rgb.png")
        self.refused(tmp_path / "rgb.png", "grey")
        sitk.WriteImage(sitk.Image([4, 5], sitk.sitkVectorUInt8, 4), tmp_path / "rgba.png")
        self.refused(tmp_path / "rgba.png", "4 components")

    def test_itk(self) -> None:
        with pytest.raises(InputError, match="stack holds 2 volumes"):
            as_image(sitk.Image([4, 5, 6, 2], sitk.sitkFloat32), "stack")
        with pytest.raises(InputError, match="spectrum stores complex"):
            as_image(sitk.Image([4, 5], sitk.sitkComplexFloat32), "spectrum")
        with pytest.raises(InputError, match="slice has shape"):
            as_image(sitk.Image([4, 5, 1], sitk.sitkFloat32), "slice")

    def test_other_objects(self) -> None:
        with pytest.raises(
            InputError,
            match=(
                r"fixed is a ndarray; expected a path, a nibabel image, a SimpleITK image or an"
                r" inrreg Image"
            ),
        ):
            as_image(np.zeros((4, 5)), "fixed")


class TestLabels:
    def test_labels_keep_large_numbers(self, tmp_path: Path) -> None:
        array = np.array([[[0, 1], [2**24 + 1, 2**31 - 1]]] * 2, np.int32)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "labels.nii")
        labels = read_labels(tmp_path / "labels.nii")
        assert isinstance(labels, LabelImage)
        np.testing.assert_array_equal(labels.numpy(), array)

    def test_labels_round_trip(self, grid: Grid, tmp_path: Path) -> None:
        labels = LabelImage.from_array(
            np.random.default_rng(8).integers(0, 60000, grid.shape).astype(np.uint16), grid
        )
        for suffix in (".nii.gz", ".nrrd"):
            write_image(labels, tmp_path / f"labels{suffix}")
            np.testing.assert_array_equal(
                read_labels(tmp_path / f"labels{suffix}").numpy(), labels.numpy()
            )
            assert nib.load(tmp_path / "labels.nii.gz").get_data_dtype() == np.uint16

    @pytest.mark.parametrize(
        ("value", "what"),
        [
            (0.4, "no label image"),
            (np.nan, "no label image"),
            (np.inf, "no label image"),
            (2.0**31, "32 bits"),
        ],
    )
    def test_what_is_no_label_is_refused(self, value: float, what: str) -> None:
        array = np.zeros((4, 5, 6))
        array[1, 2, 3] = value
        with pytest.raises(InputError, match=f"soft.*{what}"):
            as_labels(nib.Nifti1Image(array, np.eye(4)), "soft")

    @pytest.mark.parametrize("one", [1, 255])
    def test_masks(self, one: int, tmp_path: Path) -> None:
        array = np.zeros((4, 5, 6), np.uint8)
        array[1:3] = one
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "mask.nii")
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii").numpy(), array > 0)
        np.testing.assert_array_equal(as_mask(tmp_path / "mask.nii", "mask").numpy(), array > 0)

    def test_an_image_of_ours_becomes_labels_and_back(self, grid: Grid) -> None:
        image = Image.from_array(np.full(grid.shape, 3, np.int16), grid, "atlas")
        labels = as_labels(image, "fixed_labels")
        assert labels.data.dtype == torch.int32
        assert labels.dtype == np.int16
        back = as_image(labels, "fixed_labels")
        assert type(back) is Image
        assert back.data.dtype == torch.float32


def test_sources_are_named_by_their_argument(tmp_path: Path) -> None:
    write_image(as_image(nifti(), "image"), tmp_path / "scan.nii.gz")
    path = tmp_path / "scan.nii.gz"
    assert read_image(path).name == str(path)
    assert as_image(str(path), "fixed").name == f"fixed ({path})"
    assert as_image(nib.load(path), "fixed").name == "fixed"
    assert as_image(sitk.ReadImage(path), "fixed").name == "fixed"
    assert as_image(as_image(path, "fixed"), "fixed").name == f"fixed ({path})"
    assert (
        as_image(Image.from_array(np.zeros((2, 2)), Grid.from_spacing((2, 2), 1.0)), "fixed").name
        == "fixed"
    )


class TestWriting:
    def test_header(self, grid: Grid, tmp_path: Path) -> None:
        write_image(Image.from_array(np.zeros(grid.shape, np.int16), grid), tmp_path / "a.nii.gz")
        stored = nib.load(tmp_path / "a.nii.gz")
        (sform, s_code), (qform, q_code) = (
            stored.get_sform(coded=True),
            stored.get_qform(coded=True),
        )
        assert (s_code, q_code) == (1, 1)
        np.testing.assert_allclose(sform, qform, atol=1e-5)
        assert stored.header.get_xyzt_units()[0] == "mm"
        assert stored.shape == grid.shape
        assert stored.get_data_dtype() == np.int16

    def test_identical_arrays_make_identical_files(self, grid: Grid, tmp_path: Path) -> None:
        image = Image.from_array(
            np.random.default_rng(9).random(grid.shape).astype(np.float32), grid
        )
        write_image(image, tmp_path / "first.nii.gz")
        time.sleep(1.1)  # gzip's time stamp counts whole seconds
        write_image(image, tmp_path / "second.nii.gz")
        assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "second.nii.gz").read_bytes()

    def test_a_compressed_file_is_an_ordinary_gzip_stream(self, grid: Grid, tmp_path: Path) -> None:
        """Whose content is the uncompressed file."""
        image = Image.from_array(
            np.random.default_rng(9).random(grid.shape).astype(np.float32), grid
        )
        write_image(image, tmp_path / "a.nii")
        write_image(image, tmp_path / "a.nii.gz")
        packed = (tmp_path / "a.nii.gz").read_bytes()
        assert gzip.decompress(packed) == (tmp_path / "a.nii").read_bytes()
        assert packed[4:8] == bytes(4)  # no time stamp

    def test_integers_are_rounded_and_clipped(self, grid: Grid, tmp_path: Path) -> None:
        image = Image.from_array(np.zeros(grid.shape, np.uint8), grid)
        for value, stored in ((-3.2, 0), (7.6, 8), (299.0, 255)):
            write_image(image.with_data(torch.full_like(image.data, value)), tmp_path / "a.nii")
            assert np.unique(np.asarray(nib.load(tmp_path / "a.nii").dataobj)).tolist() == [stored]

    @pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
    def test_wide_integers_do_not_wrap(self, dtype: type, grid: Grid, tmp_path: Path) -> None:
        image = Image.from_array(np.zeros(grid.shape, dtype), grid)
        write_image(image.with_data(torch.full_like(image.data, 1e30)), tmp_path / "a.nii")
        assert np.asarray(nib.load(tmp_path / "a.nii").dataobj).min() == min(
            np.iinfo(dtype).max, 2**53
        )

    def test_booleans_become_bytes(self, grid: Grid, tmp_path: Path) -> None:
        write_image(LabelImage.from_array(np.ones(grid.shape, bool), grid), tmp_path / "a.nii")
        assert nib.load(tmp_path / "a.nii").get_data_dtype() == np.uint8

    def test_nan_has_no_integer(self, grid: Grid, tmp_path: Path) -> None:
        image = Image.from_array(np.zeros(grid.shape, np.int16), grid, "scan")
        with pytest.raises(InputError, match=r"scan holds NaN.*int16"):
            write_image(image.with_data(image.data * torch.nan), tmp_path / "a.nii")

    def test_one_channel(self, grid: Grid, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="features has 2 channels"):
            write_image(Image(torch.zeros(2, *grid.shape), grid, "features"), tmp_path / "a.nii")

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha"])
    def test_no_folder(self, suffix: str, grid: Grid, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=f"nowhere.a{suffix} could not be written"):
            write_image(
                Image.from_array(np.zeros(grid.shape), grid), tmp_path / "nowhere" / f"a{suffix}"
            )

    def test_png_holds_no_floats(self, grid_2d: Grid, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=r"\.nii\.gz"):
            write_image(Image.from_array(np.zeros(grid_2d.shape), grid_2d), tmp_path / "a.png")

    def test_sheared_grid_keeps_its_sform(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        affine = np.eye(4)
        affine[0, 2] = 0.3
        write_image(
            Image.from_array(np.zeros((4, 5, 6)), Grid((4, 5, 6), affine)), tmp_path / "gantry.nii"
        )
        assert "right angles" in caplog.text
        caplog.clear()
        np.testing.assert_allclose(
            read_image(tmp_path / "gantry.nii").grid.affine, affine, atol=1e-6
        )
        assert not caplog.records


def test_reading_is_silent(grid: Grid, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        write_image(Image.from_array(np.zeros(grid.shape), grid), tmp_path / "a.nii.gz")
        read_image(tmp_path / "a.nii.gz")
    assert not caplog.records


def test_an_image_saves_itself_and_becomes_nibabels(tmp_path: Path) -> None:
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3.0, 2], [0, 0, 0, 1]])
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = Image.from_array(values, Grid((2, 3, 4), affine))
    image.save(tmp_path / "image.nii.gz")
    read, converted = nib.load(tmp_path / "image.nii.gz"), image.to_nibabel()
    for other in (read, converted):
        assert np.array_equal(np.asarray(other.dataobj), values)
        assert np.array_equal(other.affine, affine)
        assert other.get_data_dtype() == np.int16
    assert "2 x 3 x 4" in image._repr_html_()
