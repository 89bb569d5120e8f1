"""Learn2Reg's folders, points and displacements in voxels, small ones: read into RAS mm, written
back as the challenge evaluates them.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation
from worlds import oblique_grid

from inrreg.core.errors import FrameError, InputError, OutputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.io import write_image
from inrreg.io.learn2reg import (
    PairFiles,
    learn2reg_pairs,
    read_learn2reg,
    read_learn2reg_displacement,
    write_learn2reg_displacement,
)
from inrreg.transforms import DenseDisplacement, Translation
from inrreg.transforms.warp import warp

GRID = oblique_grid(3)
OTHER = Grid.from_spacing(
    (15, 16, 11),
    (1.1, 0.8, 2.0),
    origin=(12.0, -80.0, 40.0),
    direction=Rotation.from_euler("zyx", [-15, 40, 10], degrees=True).as_matrix(),
)
POSITION_MM = 5e-5
"""Vectors and positions of about 150 mm in single precision: 1e-5 mm each, a few of them in a sum.
"""


def voxel_displacement(grid: Grid, voxels: float = 1.5) -> np.ndarray:
    """(H, W, D, 3), smooth, different along each index axis; border voxels stay, so nothing is
    looked up outside.
    """
    rng = np.random.default_rng(3)
    field = np.stack([gaussian_filter(rng.normal(size=grid.shape), 1.5) for _ in range(3)], -1)
    field *= voxels / np.abs(field).max()
    return (
        field * np.where(np.pad(np.ones([n - 4 for n in grid.shape]), 2), 1.0, 0.0)[..., None]
    ).astype(np.float32)


def write_disp(array: np.ndarray, path: Path) -> Path:
    """As a participant would: the header says nothing."""
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def write_task(
    root: Path, pairs: int = 2, points: tuple[str, ...] = ("keypoints",), masks: bool = True
) -> Path:
    """A task whose moving points lie at their fixed ones plus (1, 2, 0.5) voxels."""
    for folder in ("imagesTr", "masksTr", *[f"{kind}Tr" for kind in points]):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(1, pairs + 1):
        voxels = rng.uniform(3, np.array(GRID.shape) - 4, (12, 3))
        for image, shift in (("0000", (0, 0, 0)), ("0001", (1, 2, 0.5))):
            name = f"LungCT_{number:04d}_{image}"
            write_image(
                Image.from_array(rng.normal(size=GRID.shape).astype(np.float32), GRID),
                root / "imagesTr" / f"{name}.nii.gz",
            )
            if masks:
                write_image(
                    Image.from_array(np.ones(GRID.shape, np.uint8), GRID),
                    root / "masksTr" / f"{name}.nii.gz",
                )
            for kind in points:
                np.savetxt(
                    root / f"{kind}Tr" / f"{name}.csv",
                    voxels + np.array(shift),
                    fmt="%.5f",
                    delimiter=",",
                )
    return root


SHIFT_MM = float(np.linalg.norm(GRID.matrix @ (1, 2, 0.5)))


# --- displacements --------------------------------------------------------------------------------


def test_it_is_what_map_coordinates_looks_up(tmp_path: Path) -> None:
    disp = voxel_displacement(GRID)
    transform = read_learn2reg_displacement(
        write_disp(disp, tmp_path / "disp_0001_0001.nii.gz"), GRID, GRID
    )
    moving = Image.from_array(
        gaussian_filter(np.random.default_rng(1).normal(size=GRID.shape), 1).astype(np.float32),
        GRID,
    )
    identity = np.stack(np.meshgrid(*[np.arange(n) for n in GRID.shape], indexing="ij"))
    expected = map_coordinates(moving.numpy(), identity + disp.transpose(3, 0, 1, 2), order=1)
    inner = (slice(1, -1),) * 3  # at the border single precision decides what is outside
    np.testing.assert_allclose(
        warp(moving, transform, GRID).numpy()[inner], expected[inner], atol=1e-4
    )
    assert np.abs(expected - moving.numpy()).max() > 0.1
    assert not any(p.requires_grad for p in transform.parameters())


@pytest.mark.parametrize("moving_grid", [GRID, OTHER], ids=["one grid", "two grids"])
def test_fixed_voxels_are_mapped_to_moving_voxels(tmp_path: Path, moving_grid: Grid) -> None:
    disp = voxel_displacement(GRID)
    transform = read_learn2reg_displacement(
        write_disp(disp, tmp_path / "disp_0001_0001.nii.gz"), GRID, moving_grid
    ).double()
    for voxel in ((3, 5, 4), (9, 7, 3), (12, 10, 6)):
        at = GRID.affine[:3, :3] @ voxel + GRID.affine[:3, 3]
        expected = moving_grid.affine[:3, :3] @ (voxel + disp[voxel]) + moving_grid.affine[:3, 3]
        np.testing.assert_allclose(
            transform(torch.as_tensor(at)).numpy(), expected, atol=POSITION_MM
        )


@pytest.mark.parametrize("moving_grid", [GRID, OTHER], ids=["one grid", "two grids"])
def test_reading_and_writing_undo_each_other(tmp_path: Path, moving_grid: Grid) -> None:
    disp = voxel_displacement(GRID)
    transform = read_learn2reg_displacement(
        write_disp(disp, tmp_path / "a.nii.gz"), GRID, moving_grid
    )
    write_learn2reg_displacement(transform, GRID, moving_grid, tmp_path / "b.nii.gz")
    written = nib.load(tmp_path / "b.nii.gz")
    assert (written.shape, written.get_data_dtype()) == ((*GRID.shape, 3), np.float32)
    np.testing.assert_allclose(written.get_fdata(), disp, atol=POSITION_MM / 0.7)
    again = read_learn2reg_displacement(tmp_path / "b.nii.gz", GRID, moving_grid)
    torch.testing.assert_close(again.vectors, transform.vectors, atol=2 * POSITION_MM, rtol=0)


def test_mm_become_voxels_of_the_index_axes(tmp_path: Path) -> None:
    """One step along the second index axis is 0.9 mm in a direction that mixes x, y and z."""
    write_learn2reg_displacement(
        Translation.by(GRID.matrix[:, 1].tolist()), GRID, GRID, tmp_path / "disp_0001_0001.nii.gz"
    )
    np.testing.assert_allclose(
        nib.load(tmp_path / "disp_0001_0001.nii.gz").get_fdata(),
        np.broadcast_to([0, 1, 0], (*GRID.shape, 3)),
        atol=1e-5,
    )


def test_identical_transforms_make_identical_files(tmp_path: Path) -> None:
    transform = DenseDisplacement(
        torch.randn(*GRID.shape, 3, generator=torch.Generator().manual_seed(0)), GRID
    )
    for name in ("a", "b"):
        write_learn2reg_displacement(transform, GRID, GRID, tmp_path / f"{name}.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("shape", [(3, *GRID.shape), (*GRID.shape, 1, 3), (8, 7, 4, 3), GRID.shape])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        InputError, match=r"disp_0001_0001.nii.gz has shape .* has \(17, 14, 9, 3\)"
    ):
        read_learn2reg_displacement(
            write_disp(np.zeros(shape, np.float32), tmp_path / "disp_0001_0001.nii.gz"), GRID, GRID
        )


def test_other_files_are_refused(tmp_path: Path) -> None:
    disp = voxel_displacement(GRID)
    disp[2, 3, 4, 1] = np.nan
    with pytest.raises(InputError, match="1 voxels whose displacement is not finite"):
        read_learn2reg_displacement(write_disp(disp, tmp_path / "disp.nii.gz"), GRID, GRID)
    for name in ("disp_0001_0001.npz", "disp_0009_0009.nii.gz"):
        with pytest.raises(InputError, match=f"{name} is no NIfTI file at hand"):
            read_learn2reg_displacement(tmp_path / name, GRID, GRID)
    with pytest.raises(InputError, match="no known suffix"):
        write_learn2reg_displacement(Translation.by([1.0, 0, 0]), GRID, GRID, tmp_path / "disp.npz")
    with pytest.raises(OutputError, match="could not be written"):
        write_learn2reg_displacement(
            Translation.by([1.0, 0, 0]), GRID, GRID, tmp_path / "nowhere" / "disp.nii.gz"
        )


# --- folders --------------------------------------------------------------------------------------


def test_a_pair_is_loaded(tmp_path: Path) -> None:
    pair = learn2reg_pairs(write_task(tmp_path))[1]
    case = read_learn2reg(pair)
    assert (case.name, case.task, case.points_kind) == ("LungCT_0002", "LungCT", "keypoints")
    assert case.fixed.name.endswith("LungCT_0002_0000.nii.gz")
    assert case.moving.name.endswith("LungCT_0002_0001.nii.gz")
    assert case.fixed_mask is not None
    assert case.moving_mask is not None
    assert case.moving_mask.name.endswith("masksTr/LungCT_0002_0001.nii.gz")
    for points, image in ((case.fixed_points, "0000"), (case.moving_points, "0001")):
        voxels = np.loadtxt(tmp_path / f"keypointsTr/LungCT_0002_{image}.csv", delimiter=",")
        # counted from 0
        np.testing.assert_allclose(
            points.coords.numpy(), voxels @ GRID.matrix.T + GRID.origin, atol=1e-4
        )
    assert case.initial_mm == pytest.approx(SHIFT_MM, abs=1e-4)


def test_landmarks_come_before_keypoints(tmp_path: Path) -> None:
    pair = learn2reg_pairs(write_task(tmp_path, points=("keypoints", "landmarks"), masks=False))[0]
    case = read_learn2reg(pair)
    assert case.points_kind == "landmarks"
    assert "landmarksTr" in case.fixed_points.name
    assert (case.fixed_mask, case.moving_mask) == (None, None)
    assert "keypointsTr" in read_learn2reg(pair, "keypoints").fixed_points.name


def test_the_expected_initial_error_is_asserted(tmp_path: Path) -> None:
    pair = learn2reg_pairs(write_task(tmp_path))[0]
    assert read_learn2reg(pair, expected_initial_mm=round(SHIFT_MM, 2)).initial_mm == pytest.approx(
        SHIFT_MM, abs=1e-4
    )
    path = tmp_path / "keypointsTr/LungCT_0001_0001.csv"
    voxels = np.loadtxt(path, delimiter=",")
    for spoiled in (voxels[::-1], voxels * [1, 1, -1] + [0, 0, GRID.shape[2] - 1], voxels - 1):
        np.savetxt(path, spoiled, fmt="%.5f", delimiter=",")
        with pytest.raises(
            InputError, match=rf"apart in the mean, and {SHIFT_MM:.2f} mm .* was expected"
        ):
            read_learn2reg(pair, expected_initial_mm=SHIFT_MM)


def test_the_dataset_file_says_which_images_are_pairs(tmp_path: Path) -> None:
    write_task(tmp_path, pairs=3)
    entry = {
        which: f"./imagesTr/LungCT_0003_000{i}.nii.gz"
        for i, which in enumerate(("fixed", "moving"))
    }
    absent = {
        which: f"./imagesTs/LungCT_0021_000{i}.nii.gz"
        for i, which in enumerate(("fixed", "moving"))
    }
    (tmp_path / "LungCT_dataset.json").write_text(
        json.dumps(
            {
                "name": "LungCT",
                "training_paired_images": [entry],
                "registration_val": [entry],
                "registration_test": [absent],
            }
        )
    )
    assert [pair.name for pair in learn2reg_pairs(tmp_path)] == ["LungCT_0003"]
    (tmp_path / "LungCT_dataset.json").write_text(
        json.dumps({"name": "LungCT", "training": [{"image": entry["fixed"]}]})
    )
    assert [pair.name for pair in learn2reg_pairs(tmp_path)] == [
        "LungCT_0001",
        "LungCT_0002",
        "LungCT_0003",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no readable dataset file"),
        ("[]", "no readable dataset file"),
        ('{"registration_val": [{"fixed": "a"}]}', "lists the pair"),
    ],
)
def test_a_damaged_dataset_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (write_task(tmp_path) / "LungCT_dataset.json").write_text(content)
    with pytest.raises(InputError, match=message):
        learn2reg_pairs(tmp_path)


def test_folders_without_pairs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no pair of images \(0 expected\)"):
        learn2reg_pairs(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        learn2reg_pairs(tmp_path / "nowhere")
    write_task(tmp_path, pairs=1)
    for name in ("LungCT", "NLST"):
        (tmp_path / f"{name}_dataset.json").write_text("{}")
    with pytest.raises(InputError, match="holds 2 dataset files"):
        learn2reg_pairs(tmp_path)


def test_names_of_displacements_are_those_of_the_evaluation() -> None:
    def name(fixed: str, moving: str) -> str:
        return PairFiles(
            Path("imagesTr", f"{fixed}.nii.gz"), Path("imagesTr", f"{moving}.nii.gz")
        ).displacement_name()

    assert name("LungCT_0001_0000", "LungCT_0001_0001") == "disp_0001_0001.nii.gz"
    assert name("NLST_0104_0000", "NLST_0104_0001") == "disp_0104_0104.nii.gz"
    assert name("OASIS_0395_0000", "OASIS_0396_0000") == "disp_0395_0396.nii.gz"
    assert name("Thorax_0011_0002", "Thorax_0011_0000") == "disp_0011_0002_0011_0000.nii.gz"
    with pytest.raises(InputError, match="is not named as in Learn2Reg"):
        name("fixed", "moving")


BAD_POINTS = {
    "header": ("i,j,k\n1,2,3\n", "no readable list of points"),
    "six columns": ("1,2,3,4,5,6\n" * 12, "table of shape"),
    "fewer": ("5,5,5\n", "each needs its partner"),
    "outside": ("5,5,90\n" * 12, "points outside its image"),
    "not a number": ("5,5,nan\n" * 12, "not finite"),
}


@pytest.mark.parametrize("what", BAD_POINTS)
def test_bad_points_are_refused(tmp_path: Path, what: str) -> None:
    text, message = BAD_POINTS[what]
    pair = learn2reg_pairs(write_task(tmp_path))[0]
    (tmp_path / "keypointsTr/LungCT_0001_0001.csv").write_text(text)
    with pytest.raises((InputError, FrameError), match=message):
        read_learn2reg(pair)


def test_missing_points_are_named(tmp_path: Path) -> None:
    pair = learn2reg_pairs(write_task(tmp_path, points=()))[0]
    with pytest.raises(
        InputError, match=r"keypointsTr/LungCT_0001_0000.csv is no readable list of points"
    ):
        read_learn2reg(pair)
    elsewhere = PairFiles(
        pair.fixed.rename(tmp_path / "a_0001_0000.nii.gz"),
        pair.moving.rename(tmp_path / "a_0001_0001.nii.gz"),
    )
    with pytest.raises(InputError, match="do not lie in imagesTr"):
        read_learn2reg(elsewhere)
