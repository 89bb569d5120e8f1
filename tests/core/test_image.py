"""Images, label images and points: values that never lose their frame."""

import warnings

import numpy as np
import pytest
import torch

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points

DTYPES = [
    "u1",
    "i1",
    "<i2",
    ">i2",
    "<u2",
    ">u2",
    "<i4",
    "<u4",
    "<i8",
    "<u8",
    "<f2",
    "<f4",
    ">f4",
    "<f8",
    ">f8",
    "g",
    "?",
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_type_keep_their_values_and_are_remembered(grid: Grid, dtype: str) -> None:
    array = (np.arange(grid.n_voxels).reshape(grid.shape) % (2 if dtype == "?" else 100)).astype(
        dtype
    )
    image = Image.from_array(array, grid)
    assert image.data.dtype == torch.float32
    assert image.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(image.numpy(), array.astype(np.float32))
    labels = LabelImage.from_array(array, grid)
    assert labels.data.dtype == torch.int32
    np.testing.assert_array_equal(labels.numpy(), array.astype(np.int32))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.float32, torch.float64, torch.bool]
)
def test_tensors_serve_as_arrays(grid: Grid, dtype: torch.dtype) -> None:
    image = Image.from_array(torch.ones(grid.shape, dtype=dtype), grid)
    assert image.data.dtype == torch.float32
    assert image.dtype == np.dtype(str(dtype).removeprefix("torch."))
    assert image.data.shape == (1, *grid.shape)


@pytest.mark.parametrize("order", ["C", "F"])
def test_read_only_arrays_in_any_memory_order(grid: Grid, order: str) -> None:
    array = np.asarray(np.arange(grid.n_voxels, dtype=np.float32).reshape(grid.shape), order=order)
    array.setflags(write=False)
    with warnings.catch_warnings():
        # torch warns of undefined behaviour where it gets memory that it may not write
        warnings.simplefilter("error")
        image = Image.from_array(array, grid)
    np.testing.assert_array_equal(image.numpy(), array)


def test_data_must_lie_on_its_grid(grid_3d: Grid) -> None:
    with pytest.raises(
        FrameError,
        match=(
            r"CT: data of shape \(1, 14, 17, 9\) does not lie on Grid\(17 x 14 x 9 voxels.*expected"
            r" \[channels, 17, 14, 9\]"
        ),
    ):
        Image.from_array(np.zeros((14, 17, 9)), grid_3d, "CT")


def test_channels(grid: Grid) -> None:
    image = Image(
        torch.arange(3.0).reshape(3, *[1] * grid.ndim).expand(3, *grid.shape), grid, "features"
    )
    assert image.channels == 3
    assert image.numpy().shape == (3, *grid.shape)
    assert repr(image).startswith("Image('features', 3 channels, Grid(")
    assert repr(Image(image.data[:1], grid)).startswith("Image('image', 1 channel, Grid(")


def test_with_data_keeps_the_name_the_type_and_the_kind(grid: Grid) -> None:
    labels = LabelImage.from_array(np.ones(grid.shape, dtype=np.uint8), grid, "atlas")
    half = grid.resampled(2.5)
    moved = labels.with_data(torch.zeros(1, *half.shape, dtype=torch.int32), half)
    assert isinstance(moved, LabelImage)
    assert (moved.name, moved.dtype, moved.grid) == ("atlas", np.dtype(np.uint8), half)
    assert labels.with_data(labels.data + 1).grid is grid
    with pytest.raises(FrameError, match="atlas: data of shape"):
        labels.with_data(labels.data, half)


def test_moving_to_a_device_keeps_the_rest(grid: Grid, device: torch.device) -> None:
    image = Image.from_array(np.ones(grid.shape, dtype=np.int16), grid, "CT").to(device)
    assert image.device.type == device.type
    assert (image.name, image.dtype) == ("CT", np.dtype(np.int16))
    assert isinstance(image.numpy(), np.ndarray)


def test_labels_are_rounded_and_give_a_mask(grid: Grid) -> None:
    array = np.zeros(grid.shape)
    array[:3], array[3:5] = 6.9999, 2.0
    labels = LabelImage.from_array(array, grid, "segments")
    assert labels.data.unique().tolist() == [0, 2, 7]
    mask = labels.mask()
    assert not isinstance(mask, LabelImage)
    assert mask.data.dtype == torch.float32
    np.testing.assert_array_equal(mask.numpy(), (array > 0).astype(np.float32))


def test_points_are_double_precision_and_numbered_from_one() -> None:
    points = Points.from_array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert points.coords.dtype == torch.float64
    assert points.labels == ("1", "2")
    assert len(points) == 2


def test_points_do_not_share_the_callers_array() -> None:
    array = np.zeros((2, 3))
    points = Points.from_array(array, ("carina", "apex"))
    array[0, 0] = 1.0
    assert points.coords[0, 0] == 0.0
    assert points.labels == ("carina", "apex")


def test_points_need_one_label_each() -> None:
    with pytest.raises(InputError, match="landmarks: 1 labels for 2 points"):
        Points.from_array(np.zeros((2, 3)), ["a"], "landmarks")
