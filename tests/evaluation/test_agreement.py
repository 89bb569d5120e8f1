"""Image agreement: invariances, numpy's correlation, and local windows counted out one by one."""

import json

import numpy as np
import pytest
import torch
from evaluation_cases import GRIDS, oblique_2d, oblique_3d

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.evaluation import image_agreement
from inrreg.evaluation.agreement import window_voxels
from inrreg.ops.window_correlations.compiled import local_correlations

both_dimensions = pytest.mark.parametrize("grid", GRIDS, ids=["2-D", "3-D"])


def noise(grid, seed=0):
    return np.random.default_rng(seed).normal(300.0, 50.0, grid.shape).astype(np.float32)


def image(array, grid, name="image"):
    return Image.from_array(np.asarray(array, dtype=np.float32), grid, name)


@both_dimensions
def test_global_measures_equal_numpy(grid):
    f, w = noise(grid), noise(grid, 1) + 0.5 * noise(grid)
    inside = np.random.default_rng(2).random(grid.shape) < 0.5
    result = image_agreement(image(f, grid), image(w, grid), image(inside, grid))
    assert result.n_voxels == inside.sum()
    assert result.ncc == pytest.approx(np.corrcoef(f[inside], w[inside])[0, 1])
    # the images are single precision
    assert result.mse_intensity2 == pytest.approx(
        ((f - w)[inside].astype(float) ** 2).mean(), rel=1e-5
    )


@both_dimensions
def test_local_correlation_equals_windows_one_by_one(grid):
    f, w = noise(grid), noise(grid, 1) + 0.5 * noise(grid)
    inside = np.random.default_rng(2).random(grid.shape) < 0.5
    radius = [size // 2 for size in window_voxels(grid, 4.0)]
    expected = []
    for centre in np.argwhere(inside):
        # cut at the border
        window = tuple(slice(max(c - r, 0), c + r + 1) for c, r in zip(centre, radius, strict=True))
        expected.append(np.corrcoef(f[window].ravel(), w[window].ravel())[0, 1])
    assert image_agreement(
        image(f, grid), image(w, grid), image(inside, grid), window_mm=4.0
    ).lncc == pytest.approx(np.mean(expected), rel=1e-6)


def test_windows_are_odd_and_near_the_size_asked_for():
    assert window_voxels(Grid.from_spacing((9, 9, 9), (1.37, 1.37, 2.5)), 9.0) == (7, 7, 3)
    assert window_voxels(Grid.from_spacing((9, 9), (1.0, 8.0)), 9.0) == (9, 3)  # never below 3


def test_gain_and_offset_do_not_matter_to_correlations():
    grid = oblique_3d()
    f = image(noise(grid), grid)
    same = image_agreement(f, f.with_data(0.2 * f.data - 1000))
    assert same.ncc == pytest.approx(1, abs=1e-6)
    # single precision images: 1e-7 of 1000 against windows that vary by 10
    assert same.lncc == pytest.approx(1, abs=1e-4)
    inverted = image_agreement(f, f.with_data(-f.data))
    assert inverted.ncc == pytest.approx(-1)
    assert inverted.lncc == pytest.approx(-1)


def test_flat_fixed_windows_are_left_out_and_flat_warped_ones_do_not_agree():
    grid = Grid.from_spacing((30, 30), 1.0)
    f = noise(grid)
    f[:, 15:] = 300.0
    half_lost = f.copy()
    half_lost[:12] = 7.0
    whole = image_agreement(image(f, grid), image(f, grid), window_mm=3.0)
    assert whole.lncc == pytest.approx(1)  # the flat half does not count
    counted = np.zeros((30, 30), bool)
    counted[:, :16] = True  # windows of 3 x 3 that see a varying voxel
    other = image(noise(grid, 1), grid)  # varies where the fixed image is flat
    everywhere = image_agreement(image(f, grid), other, window_mm=3.0)
    assert everywhere.lncc == pytest.approx(
        image_agreement(image(f, grid), other, image(counted, grid), window_mm=3.0).lncc
    )
    flat = np.zeros((30, 30), bool)
    flat[:11] = True
    boundary = np.zeros((30, 30), bool)
    boundary[11:13] = True
    # away from the cut: 1 where both vary, 0 where the warped image is flat
    result = image_agreement(
        image(f, grid), image(half_lost, grid), image(~boundary, grid), window_mm=3.0
    )
    assert result.lncc == pytest.approx(
        (counted & ~flat & ~boundary).sum() / (counted & ~boundary).sum()
    )


def test_a_warped_image_that_left_the_view_agrees_with_nothing():
    grid = oblique_2d()
    # whose mean is not exactly 0.3
    constant = Image(torch.full((1, *grid.shape), 0.3, dtype=torch.float64), grid)
    result = image_agreement(image(noise(grid), grid), constant)
    assert (result.ncc, result.lncc) == (0, 0)
    json.dumps(result.to_json(), allow_nan=False)


def test_refuses_what_it_cannot_compare():
    grid = oblique_3d()
    f = image(noise(grid), grid, "ct")
    with pytest.raises(FrameError, match="warped lies on"):
        image_agreement(f, image(noise(oblique_2d()), oblique_2d(), "warped"))
    with pytest.raises(InputError, match="constant inside the mask"):
        image_agreement(image(np.ones(grid.shape), grid), f)
    with pytest.raises(InputError, match="body selects no voxel"):
        image_agreement(f, f, image(np.zeros(grid.shape), grid, "body"))
    broken = f.data.clone()
    broken[0, 0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="ct has 1 values that are not finite"):
        image_agreement(f, f.with_data(broken))


def test_layers_done_apart_are_those_done_at_once():
    random = np.random.default_rng(5)
    f, w = random.normal(size=(2, 9, 7, 11))
    inside, radii = random.random(f.shape) < 0.3, np.array([2, 1, 3])
    whole, parts = np.empty((2, len(f), 2))
    local_correlations(0, 9, f, w, inside, radii, 0.1, 0.1, whole)
    for first, stop in ((0, 2), (2, 3), (3, 9)):
        local_correlations(first, stop, f, w, inside, radii, 0.1, 0.1, parts)
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
