"""Masks: growing in mm, boxes, crops and centroids."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt, gaussian_filter
from steps import image_of, noise
from worlds import grids

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.ops.masks import as_weight, bounding_box, centroid, cropped, dilated


@pytest.fixture
def mask(grid: Grid) -> Image:
    """A few scattered voxels."""
    return image_of(noise(grid.shape, 3) > 0.985, grid, "mask")


def test_no_mask_means_everything(grid: Grid) -> None:
    weight = as_weight(None, grid)
    assert weight.grid is grid
    assert bool((weight.data == 1).all())


def test_labels_and_fractions_become_zero_and_one(grid: Grid) -> None:
    labels = LabelImage.from_array(torch.arange(grid.n_voxels).reshape(grid.shape) % 3, grid)
    assert torch.equal(as_weight(labels, grid).data, (labels.data > 0).float())
    soft = image_of(noise(grid.shape, 1), grid)
    assert torch.equal(as_weight(soft, grid).data, (soft.data > 0.5).float())


@pytest.mark.parametrize("margin_mm", [1.0, 2.6, 4.0])
def test_growing_reaches_every_voxel_within_the_margin(mask: Image, margin_mm: float) -> None:
    points = mask.grid.points(torch.float64)
    distance = (
        torch.cdist(points.reshape(-1, mask.grid.ndim), points[mask.data[0] > 0])
        .amin(1)
        .reshape(mask.grid.shape)
    )
    assert torch.equal(dilated(mask, margin_mm).data[0] > 0, distance <= margin_mm)


def test_shrinking_is_growing_of_the_rest(mask: Image) -> None:
    grown = dilated(mask, 4.0)
    back = dilated(grown, -2.0)
    points = mask.grid.points(torch.float64)
    distance = (
        torch.cdist(points.reshape(-1, mask.grid.ndim), points[grown.data[0] == 0])
        .amin(1)
        .reshape(mask.grid.shape)
    )
    assert torch.equal(back.data[0] > 0, distance > 2.0)
    assert 0 < float(back.data.sum()) < float(grown.data.sum())


@pytest.mark.parametrize("margin_mm", [-3.0, -1.0, 0.9, 3.0, 7.5, 100.0])
def test_growing_and_shrinking_equal_a_distance_transform(grid: Grid, margin_mm: float) -> None:
    """Margins shorter than a voxel and larger than the image among them, on one thread and
    three.
    """
    values, before = noise(grid.shape, 8)[0].numpy(), torch.get_num_threads()
    inside = gaussian_filter(values, 1.5) > np.quantile(gaussian_filter(values, 1.5), 0.6)
    away = distance_transform_edt(~inside if margin_mm > 0 else inside, sampling=grid.spacing)
    expected = away <= margin_mm if margin_mm > 0 else away > -margin_mm
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found = dilated(image_of(torch.from_numpy(inside), grid), margin_mm).data[0]
        torch.set_num_threads(before)
        assert np.array_equal(found.numpy() > 0, expected)


def test_an_empty_mask_does_not_grow(grid: Grid) -> None:
    assert not bool(dilated(image_of(torch.zeros(grid.shape), grid), 5.0).data.any())


def test_nothing_to_grow_is_left_as_it_is(mask: Image, grid: Grid) -> None:
    assert dilated(mask, 0.0) is mask
    everything = as_weight(None, grid)
    assert dilated(everything, 5.0) is everything


def test_bounding_box_is_numpys(mask: Image) -> None:
    where = np.nonzero(mask.data[0].numpy())
    assert bounding_box(mask) == ([int(w.min()) for w in where], [int(w.max()) + 1 for w in where])


def test_bounding_box_grows_by_whole_voxels_and_stays_in_the_grid(grid: Grid) -> None:
    single = torch.zeros(grid.shape)
    center = tuple(n // 2 for n in grid.shape)
    single[center] = 1
    reach = [int(np.ceil(2.0 / h)) for h in grid.spacing]
    assert bounding_box(image_of(single, grid), 2.0) == (
        [c - r for c, r in zip(center, reach, strict=True)],
        [c + r + 1 for c, r in zip(center, reach, strict=True)],
    )
    assert bounding_box(image_of(single, grid), 1000.0) == ([0] * grid.ndim, list(grid.shape))


def test_an_empty_mask_is_refused(grid: Grid) -> None:
    with pytest.raises(InputError, match=r'lung mask is empty.*1 means "use this"'):
        as_weight(image_of(torch.full(grid.shape, 0.4), grid, "lung mask"), grid)


def test_a_crop_keeps_every_value_at_its_place(image: Image) -> None:
    lower, upper = [2, 3, 1][: image.grid.ndim], [9, 8, 7][: image.grid.ndim]
    part = cropped(image, lower, upper)
    inner = tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))
    assert torch.equal(part.data[0], image.data[0][inner])
    torch.testing.assert_close(
        part.grid.points(torch.float64), image.grid.points(torch.float64)[inner], rtol=0, atol=1e-9
    )


@given(grids(), st.integers(0, 1000))
def test_centroid_is_the_mean_of_the_points_of_the_mask(grid: Grid, seed: int) -> None:
    weights = noise(grid.shape, seed)[0] + 1e-3
    expected = (grid.points(torch.float64) * weights[..., None]).reshape(-1, grid.ndim).sum(
        0
    ) / weights.sum()
    np.testing.assert_allclose(centroid(image_of(weights, grid)), expected, atol=1e-8)
