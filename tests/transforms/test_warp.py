"""Warping against SimpleITK's Resample on oblique pairs, and what it promises about kinds, fills
and chunks.
"""

import numpy as np
import pytest
import SimpleITK
import torch
from evaluation_cases import affine_about, oblique, oblique_2d, oblique_3d, sitk_affine, sitk_image

import inrreg.transforms.warp
from inrreg.core.errors import FrameError, InputError
from inrreg.core.image import Image, LabelImage
from inrreg.ops.sampling import inside, linear
from inrreg.transforms import BSpline, Translation
from inrreg.transforms.warp import warp, warped

PAIRS = {
    "2d": (oblique((23, 19), (0.9, 1.3), (-30.0, 45.0), (5.0,)), oblique_2d()),
    "3d": (
        oblique((21, 17, 13), (0.9, 1.1, 2.0), (-28.0, 40.0, 122.0), (10.0, -30.0, 40.0)),
        oblique_3d(),
    ),
}


@pytest.fixture(params=PAIRS.values(), ids=PAIRS)
def pair(request):
    """A moving image of smooth bumps on one oblique grid, another oblique grid, and an affine map
    between them that leaves part of it outside.
    """
    fixed_grid, moving_grid = request.param
    generator = torch.Generator().manual_seed(3)
    moving = Image(
        1000 * torch.rand(1, *moving_grid.shape, generator=generator) - 200,
        moving_grid,
        "moving",
        np.dtype(np.int16),
    )
    transform = affine_about(fixed_grid, seed=4, strength=0.1)
    transform.shift.data += torch.as_tensor(moving_grid.center - fixed_grid.center)
    covered = inside(moving_grid, transform(fixed_grid.points(torch.float64))).mean()
    assert 0.3 < covered < 0.95  # both sides of the border are seen
    return moving, transform, fixed_grid


def resampled(array, moving_grid, transform, grid, interpolator, default):
    reference = sitk_image(np.zeros(grid.shape, np.float32), grid)
    return SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(
            sitk_image(array, moving_grid), reference, sitk_affine(transform), interpolator, default
        )
    ).T


def rim(moving_grid, transform, grid, low, high):
    """Sites whose distance past the outermost voxel centres, in voxels, lies between ``low`` and
    ``high``: where implementations may differ.
    """
    voxels = moving_grid.to_voxel(transform(grid.points(torch.float64)))
    beyond = torch.maximum(-voxels, voxels - (torch.tensor(moving_grid.shape) - 1)).amax(-1)
    return ((beyond > low) & (beyond < high)).numpy()


# single precision: 1e-5 mm of position at gradients of up to 1000 / 0.8 mm, and 1e-7 of the values
TOLERANCE = 0.1


@pytest.mark.parametrize("outside", [None, -1024.0])
def test_linear_equals_simpleitk(pair, outside):
    moving, transform, grid = pair
    default = float(moving.data.min()) if outside is None else outside
    expected = resampled(
        moving.numpy(), moving.grid, transform, grid, SimpleITK.sitkLinear, default
    )
    # the edge of the image itself, where rounding decides
    compared = ~rim(moving.grid, transform, grid, 0.4999, 0.5001)
    np.testing.assert_allclose(
        warp(moving, transform, grid, outside).numpy()[compared], expected[compared], atol=TOLERANCE
    )


def test_cubic_equals_simpleitk(pair):
    moving, transform, grid = pair
    expected = resampled(
        moving.numpy(), moving.grid, transform, grid, SimpleITK.sitkBSpline, -1024.0
    )
    # past the last centre the border value is held here, the image is mirrored there
    compared = ~rim(moving.grid, transform, grid, -1e-4, 0.5001)
    assert compared.mean() > 0.7
    np.testing.assert_allclose(
        warp(moving, transform, grid, -1024.0, "cubic").numpy()[compared],
        expected[compared],
        atol=TOLERANCE,
    )


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_labels_equal_simpleitk_and_hold_no_new_value(pair, method):
    moving, transform, grid = pair
    labels = LabelImage.from_array(
        (moving.numpy() // 100).astype(np.int16) + 3, moving.grid, "labels"
    )
    warped = warp(labels, transform, grid, method=method)
    expected = resampled(
        labels.numpy().astype(np.int16),
        labels.grid,
        transform,
        grid,
        SimpleITK.sitkNearestNeighbor,
        0,
    )
    assert type(warped) is LabelImage
    assert warped.data.dtype == torch.int32
    assert warped.dtype == np.int16
    # a site within rounding of the middle between two voxels may go either way; random sites are
    # not there
    np.testing.assert_array_equal(warped.numpy(), expected)
    assert set(np.unique(warped.numpy())) <= set(np.unique(labels.numpy())) | {0}


def test_keeps_what_the_image_is(pair):
    moving, transform, grid = pair
    warped = warp(moving, transform, grid)
    assert type(warped) is Image
    assert (warped.name, warped.dtype, warped.grid) == (moving.name, np.int16, grid)
    assert not warped.data.requires_grad


def test_fill_is_the_least_value_of_each_channel_and_labels_get_background():
    grid = oblique_3d()
    far = Translation.by([500.0, 0.0, 0.0])
    channels = torch.stack([torch.full(grid.shape, 7.0), torch.full(grid.shape, -3.0)])
    assert warp(Image(channels, grid), far, grid).data.flatten(1).unique(dim=1).tolist() == [
        [7.0],
        [-3.0],
    ]
    labels = LabelImage.from_array(np.full(grid.shape, 4), grid)
    assert warp(labels, far, grid).data.unique().tolist() == [0]
    assert warp(labels, far, grid, outside=9.0).data.unique().tolist() == [9]


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_chunks_change_nothing_and_coefficients_are_made_once(pair, method, monkeypatch):
    moving, _, grid = pair
    transform = BSpline.over(grid, 5.0)
    transform.coefficients.data.normal_(0, 2, generator=torch.Generator().manual_seed(5))
    whole = warp(moving, transform, grid, method=method)
    made = []
    monkeypatch.setattr(inrreg.transforms.warp, "CHUNK", 50)
    monkeypatch.setattr(
        inrreg.transforms.warp,
        "spline_image",
        lambda image, make=inrreg.transforms.warp.spline_image: made.append(image) or make(image),
    )
    torch.testing.assert_close(warp(moving, transform, grid, method=method).data, whole.data)
    assert len(made) == (method == "cubic")


def test_identity_returns_the_image(pair):
    moving, _, _ = pair
    for method in ("linear", "cubic"):
        same = warp(moving, Translation.by(np.zeros(moving.grid.ndim)), moving.grid, method=method)
        torch.testing.assert_close(same.data, moving.data, atol=TOLERANCE, rtol=0)


def test_image_and_transform_may_live_on_different_devices(device):
    grid = oblique_3d()
    image = Image(torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(6)), grid)
    transform = affine_about(grid, strength=0.1)
    expected = warp(image, transform, grid)
    for moving in (image, image.to(device)):
        warped = warp(moving, transform.to(device), grid)
        assert warped.device == moving.device
        # single precision: 1e-5 mm of position
        torch.testing.assert_close(warped.data.cpu(), expected.data, atol=1e-4, rtol=0)


def test_refuses_what_does_not_fit():
    image = Image(torch.zeros(1, *oblique_3d().shape), oblique_3d(), "thorax")
    with pytest.raises(FrameError, match="thorax is 3-D"):
        warp(image, Translation.by([0.0, 0.0]), oblique_2d())
    with pytest.raises(InputError, match="'lanczos'"):
        warp(image, Translation.by([0.0, 0.0, 0.0]), oblique_3d(), method="lanczos")


@pytest.mark.parametrize("outside", [None, -1024.0])
def test_loops_and_sampling_at_points_agree_where_a_map_folds_and_leads_nowhere_too(pair, outside):
    moving, transform, grid = pair
    image = moving.with_data(torch.cat([moving.data, -2 * moving.data]))
    u = transform.displacement_on(grid) + 3 * torch.randn(
        *grid.shape, grid.ndim, generator=torch.Generator().manual_seed(7)
    )
    u[tuple(n // 2 for n in grid.shape)] = torch.nan
    points = grid.points() + u
    fill = image.data.flatten(1).amin(1) if outside is None else torch.full((2,), outside)
    expected = torch.where(
        inside(moving.grid, points).bool(),
        linear(image, points),
        fill.reshape(-1, *[1] * grid.ndim),
    )
    voxels = moving.grid.to_voxel(points.double())
    # where rounding decides
    edge = (
        torch.minimum(
            (voxels + 0.5).abs(), (voxels - torch.tensor(moving.grid.shape) + 0.5).abs()
        ).amin(-1)
        < 1e-4
    )
    found = warped(image, u, grid, outside).data
    torch.testing.assert_close(found[:, ~edge], expected[:, ~edge], atol=2 * TOLERANCE, rtol=0)
    assert found.isfinite().all()
