"""Bad input is answered before any work: each check fails on what it names, passes on what is
right, and says what to do.
"""

import numpy as np
import pytest
import torch

from inrreg.core.checks import (
    check_intensities,
    check_landmarks,
    check_mask,
    check_pairs,
    check_same_dimension,
)
from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points


def points_at(grid: Grid, *voxels: list[float]) -> Points:
    return Points.from_array(
        np.array(voxels) @ grid.matrix.T + grid.origin, [f"P{i}" for i in range(len(voxels))]
    )


class TestIntensities:
    def test_a_good_image(self, image: Image) -> None:
        check_intensities(image)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_values_that_are_not_finite(self, value: float, image: Image) -> None:
        data = image.data.clone()
        data[0, 1, 2:5] = value
        count = data[0, 1, 2:5].numel()
        with pytest.raises(InputError, match=f"scan holds {count} voxels.*nan_to_num"):
            check_intensities(Image(data, image.grid, "scan"))

    def test_a_constant_image(self, grid: Grid) -> None:
        with pytest.raises(InputError, match="scan is -1000 everywhere"):
            check_intensities(Image(torch.full((1, *grid.shape), -1000.0), grid, "scan"))

    def test_an_axis_of_one_voxel(self) -> None:
        with pytest.raises(InputError, match=r"scan has the shape .*one voxel"):
            check_intensities(
                Image(torch.rand(1, 4, 1, 5), Grid.from_spacing((4, 1, 5), 1.0), "scan")
            )


class TestMask:
    def test_a_good_mask(self, image: Image) -> None:
        shifted = Grid(
            image.grid.shape,
            image.grid.affine + np.eye(image.grid.ndim + 1, k=image.grid.ndim) * 5e-4,
        )
        check_mask(LabelImage.from_array(np.ones(image.grid.shape, np.uint8), shifted), image)

    def test_another_grid(self, image: Image) -> None:
        shifted = Grid(
            image.grid.shape,
            image.grid.affine + np.eye(image.grid.ndim + 1, k=image.grid.ndim) * 5e-3,
        )
        for grid in (
            shifted,
            image.grid.resampled(3.0),
            image.grid.cropped([1] * image.grid.ndim, image.grid.shape),
        ):
            with pytest.raises(
                FrameError, match=r"lobe lies on Grid\(.*but scan on Grid\(.*resample the mask"
            ):
                check_mask(
                    Image(torch.ones(1, *grid.shape), grid, "lobe"),
                    Image(image.data, image.grid, "scan"),
                )

    def test_an_empty_mask(self, image: Image) -> None:
        with pytest.raises(InputError, match="lobe is empty"):
            check_mask(Image(torch.zeros_like(image.data), image.grid, "lobe"), image)


class TestLandmarks:
    def test_one_voxel_beyond_the_box_is_allowed(self, grid: Grid) -> None:
        last = np.array(grid.shape) - 0.5
        check_landmarks(
            points_at(grid, [-1.49] * grid.ndim, (last + 0.99).tolist()), grid, "landmarks.csv"
        )

    @pytest.mark.parametrize("axis", [0, 1])
    @pytest.mark.parametrize("upper", [0, 1])
    def test_points_outside(self, axis: int, upper: int, grid: Grid) -> None:
        voxel = [2.0] * grid.ndim
        voxel[axis] = grid.shape[axis] + 0.51 if upper else -1.51
        with pytest.raises(
            FrameError,
            match=(
                r"landmarks.csv has 2 of 3 points outside its image, the first is P1 at"
                r" .*LPS.*swapped"
            ),
        ):
            check_landmarks(points_at(grid, [1.0] * grid.ndim, voxel, voxel), grid, "landmarks.csv")

    def test_another_dimension(self, grid: Grid) -> None:
        other = Points.from_array(np.zeros((2, 5 - grid.ndim)))
        with pytest.raises(
            FrameError, match=f"in {5 - grid.ndim}-D, but its image is in {grid.ndim}-D"
        ):
            check_landmarks(other, grid, "landmarks.csv")


def test_pairs() -> None:
    three = Points.from_array(np.zeros((3, 3)), name="fixed.csv")
    check_pairs(three, three)
    with pytest.raises(InputError, match=r"fixed\.csv has 3 points and moving\.csv has 2"):
        check_pairs(three, Points.from_array(np.zeros((2, 3)), name="moving.csv"))


def test_same_dimension(grid_2d: Grid, grid_3d: Grid) -> None:
    flat, solid = (
        Image(torch.zeros(1, *grid_2d.shape), grid_2d, "slice"),
        Image(torch.zeros(1, *grid_3d.shape), grid_3d, "volume"),
    )
    check_same_dimension(flat, flat)
    check_same_dimension(solid, solid)
    with pytest.raises(FrameError, match="slice is in 2-D and volume in 3-D"):
        check_same_dimension(flat, solid)
