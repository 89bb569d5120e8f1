"""Interpolation at world points: against scipy and SimpleITK, on every orientation, with its
derivatives and its borders.
"""

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor
from worlds import Wave, between_voxels, grids, oblique, oblique_grid, signed_permutations

from inrreg.core.errors import FrameError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.ops import sampling
from inrreg.ops.sampling import (
    cubic,
    inside,
    linear,
    nearest,
    on_grid,
    smooth_linear,
    smoothed,
    spatial_gradient,
    spline_combination,
    spline_image,
    value_and_gradient,
)

SMOOTH = [linear, smooth_linear, cubic]
ALL = [*SMOOTH, nearest]
Interpolator = Callable[..., Tensor]


@pytest.fixture
def noise(grid: Grid, generator: torch.Generator) -> Image:
    """Two channels of white noise: nothing smooth hides an error of place."""
    return Image(
        torch.rand(2, *grid.shape, generator=generator, dtype=torch.float64), grid, "noise"
    )


@pytest.fixture
def points(grid: Grid, generator: torch.Generator) -> Tensor:
    return between_voxels(grid, 60, generator)


def around(grid: Grid, voxels: float = 3.0, count: int = 200) -> Tensor:
    """World points in the grid and up to some voxels beyond it."""
    upper = torch.tensor(grid.shape, dtype=torch.float64) - 1 + 2 * voxels
    return grid.to_world(
        torch.rand(
            count, grid.ndim, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        * upper
        - voxels
    )


def to_simpleitk(image: Image) -> SimpleITK.Image:
    flip = np.diag([-1.0, -1.0, 1.0])[: image.grid.ndim, : image.grid.ndim]
    result = SimpleITK.GetImageFromArray(image.numpy().T)
    result.SetOrigin((flip @ image.grid.origin).tolist())
    result.SetSpacing(image.grid.spacing.tolist())
    result.SetDirection((flip @ image.grid.direction).ravel().tolist())
    return result


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interpolate", "order", "mode"),
    [
        (linear, 1, "nearest"),
        (smooth_linear, 1, "nearest"),
        (cubic, 3, "mirror"),
        (nearest, 0, "nearest"),
    ],
)
def test_scipy_interpolates_alike(
    noise: Image,
    points: Tensor,
    interpolate: Interpolator,
    order: int,
    mode: str,
    device: torch.device,
) -> None:
    voxels = noise.grid.to_voxel(points).numpy().T
    expected = np.stack(
        [
            ndimage.map_coordinates(channel, voxels, order=order, mode=mode)
            for channel in noise.numpy()
        ]
    )
    np.testing.assert_allclose(
        interpolate(noise.to(device), points.to(device)).cpu(), expected, atol=1e-10
    )


@pytest.mark.parametrize(
    ("interpolate", "other"),
    [
        (linear, SimpleITK.sitkLinear),
        (cubic, SimpleITK.sitkBSpline),
        (nearest, SimpleITK.sitkNearestNeighbor),
    ],
)
def test_simpleitk_interpolates_alike_at_world_points(
    noise: Image, points: Tensor, interpolate: Interpolator, other: int
) -> None:
    image = noise.with_data(noise.data[:1])
    lps = points.numpy() * np.array([-1.0, -1.0, 1.0])[: noise.grid.ndim]
    reference = to_simpleitk(image)
    expected = [reference.EvaluateAtPhysicalPoint(point, other) for point in lps.tolist()]
    # ITK filters for the coefficients to 1e-10 of the border only
    np.testing.assert_allclose(interpolate(image, points)[0], expected, atol=1e-7)


def test_an_image_on_another_grid_is_the_one_at_its_points(
    noise: Image, device: torch.device
) -> None:
    d = noise.grid.ndim
    shape, spacing, axes = (
        np.array((9, 12, 7)[:d]),
        np.array((1.2, 1.1, 1.9)[:d]),
        oblique(d) @ oblique(d),
    )
    other = Grid.from_spacing(
        shape.tolist(),
        spacing,
        (noise.grid.center + 4.0 - axes @ (spacing * (shape - 1) / 2)).tolist(),
        axes,
    )
    found, expected = (
        on_grid(noise.to(device), other),
        linear(noise, other.points(torch.float64), outside=0.0),
    )
    assert found.grid is other
    assert 0.05 < float((expected == 0).double().mean()) < 0.95  # it reaches beyond
    torch.testing.assert_close(found.data.double().cpu(), expected, rtol=0, atol=1e-4)
    assert on_grid(noise, noise.grid) is noise


@pytest.mark.parametrize("interpolate", ALL)
def test_voxel_centres_give_the_voxels(noise: Image, interpolate: Interpolator) -> None:
    torch.testing.assert_close(
        interpolate(noise, noise.grid.points(torch.float64)), noise.data, rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("interpolate", ALL)
def test_a_batch_is_each_point(noise: Image, points: Tensor, interpolate: Interpolator) -> None:
    looped = torch.stack([interpolate(noise, point) for point in points], -1)
    torch.testing.assert_close(
        interpolate(noise, points.reshape(3, 4, 5, -1)),
        looped.reshape(2, 3, 4, 5),
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("threads", [1, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 60])
def test_spreading_over_threads_does_not_show(
    noise: Image, points: Tensor, threads: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = smooth_linear(noise, points[:count])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.testing.assert_close(linear(noise, points[:count]), expected, rtol=0, atol=1e-12)


@given(grid=grids(), data=st.data())
def test_linear_functions_are_exact_on_any_grid(grid: Grid, data: st.DataObject) -> None:
    slope = torch.tensor(data.draw(st.tuples(*[st.floats(-2, 2)] * grid.ndim)), dtype=torch.float64)
    image = Image((grid.points(torch.float64) @ slope)[None], grid)
    upper = torch.tensor(grid.shape, dtype=torch.float64) - 1
    points = grid.to_world(
        torch.rand(20, grid.ndim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        * upper
    )
    for interpolate in (linear, smooth_linear):
        torch.testing.assert_close(interpolate(image, points)[0], points @ slope, rtol=0, atol=1e-8)


def test_smooth_functions_are_met_to_the_order_of_the_method() -> None:
    wave, errors = Wave(3), {linear: [], cubic: []}
    for spacing in (2.0, 1.0):
        grid = Grid.from_spacing(
            [round(24 / spacing)] * 3, [spacing] * 3, (-31.0, 47.0, 112.0), oblique(3)
        )
        inner = grid.cropped([round(6 / spacing)] * 3, [round(18 / spacing)] * 3)
        points = between_voxels(inner, 200, torch.Generator().manual_seed(0))
        for interpolate, row in errors.items():
            row.append(
                (interpolate(wave.image(grid, torch.float64), points)[0] - wave(points))
                .abs()
                .max()
                .item()
            )
    # halving the spacing divides the error by 2^2 and 2^4; a little less is allowed, since the
    # worst point moves
    assert errors[linear][0] / errors[linear][1] > 3
    assert errors[cubic][0] / errors[cubic][1] > 12


@pytest.mark.parametrize("interpolate", SMOOTH)
def test_single_precision_far_from_the_world_origin(
    interpolate: Interpolator, device: torch.device
) -> None:
    grid = Grid.from_spacing((30, 25, 12), (0.7, 0.9, 2.5), (1000.0, -1000.0, 1000.0), oblique(3))
    image = Wave(3).image(grid, torch.float64)
    points = between_voxels(grid, 100, torch.Generator().manual_seed(0))
    found = (
        interpolate(image.with_data(image.data.float()).to(device), points.float().to(device))
        .double()
        .cpu()
    )
    # floats near 1000 mm are 6e-5 mm apart, the wave rises by 0.65 per mm at most: a handful of
    # roundings
    torch.testing.assert_close(found, interpolate(image, points), rtol=0, atol=2e-4)


def test_a_landmark_and_its_blob_agree_in_all_orientations(generator: torch.Generator) -> None:
    """The first thing peers get wrong: an image warped by a map shows at x what the moving image
    has at T(x).
    """
    matrix = torch.eye(3, dtype=torch.float64) + 0.2 * (
        torch.rand(3, 3, generator=generator, dtype=torch.float64) - 0.5
    )
    shift, landmark = (
        torch.tensor([4.0, -3.0, 5.0], dtype=torch.float64),
        torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64),
    )
    fixed = Grid.from_spacing((15, 13, 11), (1.5, 1.7, 2.0), direction=oblique(3))
    fixed = Grid.from_spacing(
        fixed.shape,
        fixed.spacing,
        fixed.origin + landmark.numpy() - fixed.center + 0.4,
        fixed.direction,
    )
    x = fixed.points(torch.float64)
    for axes in signed_permutations(3):
        size, spacing = np.array([34, 30, 16]), np.array([0.9, 1.0, 2.0])
        target = (landmark @ matrix.T + shift).numpy()
        direction = oblique(3).T @ axes
        moving = Grid.from_spacing(
            size, spacing, target - direction @ (spacing * (size - 1) / 2), direction
        )
        blob = torch.exp(
            -0.5 * (moving.points(torch.float64) - torch.tensor(target)).square().sum(-1) / 3.0**2
        )
        warped = cubic(Image(blob[None], moving), x @ matrix.T + shift, outside=0.0)[0]
        centre = (x * warped[..., None]).sum((0, 1, 2)) / warped.sum()
        # the tails of the blob are cut by the fixed grid
        torch.testing.assert_close(centre, landmark, rtol=0, atol=0.1)


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolate", SMOOTH)
def test_first_derivatives_by_points_and_values(
    noise: Image, points: Tensor, interpolate: Interpolator, device: torch.device
) -> None:
    few, data = points[:8].to(device).requires_grad_(), noise.data.to(device).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: interpolate(noise.to(device), p), few, fast_mode=device.type == "cuda"
    )
    assert torch.autograd.gradcheck(
        lambda d: interpolate(noise.with_data(d), few.detach()), data, fast_mode=True
    )


@pytest.mark.parametrize("interpolate", [smooth_linear, cubic])
def test_second_derivatives_by_points(
    noise: Image, points: Tensor, interpolate: Interpolator
) -> None:
    assert torch.autograd.gradgradcheck(
        lambda p: interpolate(noise, p), points[:6].requires_grad_()
    )


@pytest.mark.parametrize("order", [1, 3])
def test_value_and_gradient_is_what_autograd_finds(noise: Image, order: int) -> None:
    points = torch.cat(
        [
            between_voxels(noise.grid, 40, torch.Generator().manual_seed(0)),
            around(noise.grid, count=40),
        ]
    ).requires_grad_()
    interpolate = cubic if order == 3 else linear
    value, gradient = value_and_gradient(noise, points, order)
    torch.testing.assert_close(value, interpolate(noise, points), rtol=0, atol=1e-10)
    for channel in range(2):
        (expected,) = torch.autograd.grad(interpolate(noise, points)[channel].sum(), points)
        torch.testing.assert_close(gradient[channel], expected, rtol=0, atol=1e-9)


def test_gradients_are_per_mm_along_world_axes(grid: Grid, wave: Wave) -> None:
    inner = grid.cropped([3] * grid.ndim, [n - 3 for n in grid.shape])
    points = between_voxels(inner, 50, torch.Generator().manual_seed(0))
    gradient = value_and_gradient(wave.image(grid, torch.float64), points, order=3)[1][0]
    # (k h)^3 / 24 of the slope for the cubic spline, k h = 0.5 along the widest voxels; the
    # mirrored border adds its ripples there
    torch.testing.assert_close(gradient, wave.gradient(points), rtol=0, atol=4e-3)


def test_the_gradient_of_the_gradient_flows_to_the_samples(noise: Image, points: Tensor) -> None:
    data = noise.data.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d: spatial_gradient(d, noise.grid, points[:6], 3), data, fast_mode=True
    )


# --- borders --------------------------------------------------------------------------------------


def test_inside_ends_with_the_voxels(grid: Grid, device: torch.device) -> None:
    half, n = grid.to_world(torch.full((grid.ndim,), 2.0, dtype=torch.float64)), grid.shape[0]
    along = (
        torch.tensor([-0.51, -0.49, 0.0, n - 0.51, n - 0.49], dtype=torch.float64)[:, None] - 2.0
    )
    points = half + along * torch.tensor(grid.matrix[:, 0].copy())
    assert inside(grid, points.to(device)).tolist() == [0, 1, 1, 1, 0]
    assert inside(grid, points.float()).dtype == torch.float32


def test_inside_needs_every_axis_and_gives_no_gradient(grid: Grid) -> None:
    points = around(grid).requires_grad_()
    voxels = grid.to_voxel(points.detach())
    expected = torch.stack(
        [(voxels[:, a] >= -0.5) & (voxels[:, a] <= n - 0.5) for a, n in enumerate(grid.shape)]
    ).all(0)
    weight = inside(grid, points)
    torch.testing.assert_close(weight, expected.double())
    assert 0 < weight.mean() < 1
    assert not weight.requires_grad


@pytest.mark.parametrize("interpolate", ALL)
def test_outside_sees_the_border_value(noise: Image, interpolate: Interpolator) -> None:
    points = around(noise.grid)
    upper = torch.tensor(noise.grid.shape, dtype=torch.float64) - 1
    clamped = noise.grid.to_world(noise.grid.to_voxel(points).clamp(torch.zeros_like(upper), upper))
    torch.testing.assert_close(
        interpolate(noise, points), interpolate(noise, clamped), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("interpolate", ALL)
def test_outside_sees_a_constant(noise: Image, interpolate: Interpolator) -> None:
    points = around(noise.grid)
    weight = inside(noise.grid, points).bool()
    values = interpolate(noise, points, outside=-1000.0)
    assert (values[:, ~weight] == -1000.0).all()
    torch.testing.assert_close(
        values[:, weight], interpolate(noise, points)[:, weight], rtol=0, atol=0
    )


@pytest.mark.parametrize("interpolate", [smooth_linear, cubic])
def test_a_point_that_is_no_number_gives_none(noise: Image, interpolate: Interpolator) -> None:
    points = torch.full((2, noise.grid.ndim), float("nan"), dtype=torch.float64)
    assert interpolate(noise, points).isnan().all()


@pytest.mark.parametrize("interpolate", ALL)
def test_a_grid_of_one_voxel_along_an_axis(interpolate: Interpolator) -> None:
    grid = Grid.from_spacing((4, 1, 3), (1.0, 2.0, 3.0), (5.0, 6.0, 7.0), oblique(3))
    image = Image(
        torch.rand(1, 4, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        grid,
    )
    points = grid.to_world(torch.tensor([[1.0, 0.3, 2.0], [3.0, -0.4, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(
        interpolate(image, points)[0], image.data[0, [1, 3], 0, [2, 0]], rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("interpolate", ALL)
def test_points_of_another_dimension_are_refused(noise: Image, interpolate: Interpolator) -> None:
    with pytest.raises(FrameError, match=f"last axis of {noise.grid.ndim}"):
        interpolate(noise, torch.zeros(4, 5 - noise.grid.ndim))


# --- labels ---------------------------------------------------------------------------------------


@pytest.fixture
def labels(grid: Grid, generator: torch.Generator) -> LabelImage:
    return LabelImage.from_array(
        torch.randint(0, 5, grid.shape, generator=generator) * 1000003, grid
    )


def test_nearest_makes_no_new_labels_and_keeps_their_type(
    labels: LabelImage, device: torch.device
) -> None:
    values = nearest(labels.to(device), around(labels.grid).to(device), outside=0.0)
    assert values.dtype == torch.int32
    assert set(values.unique().tolist()) <= set(labels.data.unique().tolist())


def test_nearest_settles_ties_as_itk_does() -> None:
    grid = Grid.from_spacing((6, 5), (1.0, 2.0))
    image = Image(torch.arange(30.0, dtype=torch.float64).reshape(1, 6, 5), grid)
    points = grid.to_world(
        torch.tensor([[0.5, 0.0], [1.5, 2.5], [2.5, 1.5], [4.5, 3.5]], dtype=torch.float64)
    )
    reference = to_simpleitk(image)
    expected = [
        reference.EvaluateAtPhysicalPoint(
            (point * torch.tensor([-1.0, -1.0])).tolist(), SimpleITK.sitkNearestNeighbor
        )
        for point in points
    ]
    assert nearest(image, points)[0].tolist() == expected


# --- splines, smoothing, pyramids -----------------------------------------------------------------


def test_spline_image_holds_the_coefficients_of_the_interpolant(
    noise: Image, points: Tensor
) -> None:
    coefficients = spline_image(noise)
    expected = np.stack(
        [ndimage.spline_filter(channel, order=3, mode="mirror") for channel in noise.numpy()]
    )
    np.testing.assert_allclose(coefficients.data, expected, atol=1e-10)
    torch.testing.assert_close(
        spline_combination(coefficients, points), cubic(noise, points), rtol=0, atol=1e-12
    )


def test_smoothed_blurs_by_mm_not_by_voxels(grid: Grid) -> None:
    data = torch.zeros(1, *grid.shape, dtype=torch.float64)
    data[(0, *[n // 2 for n in grid.shape])] = 1.0
    sigma = 1.0
    blurred = smoothed(Image(data, grid), [0.0] * (grid.ndim - 1) + [sigma])
    profile = blurred.data[(0, *[n // 2 for n in grid.shape[:-1]])].numpy()
    offset = (np.arange(grid.shape[-1]) - grid.shape[-1] // 2) * grid.spacing[-1]
    expected = np.exp(-0.5 * (offset / sigma) ** 2) * (
        np.abs(offset) <= 4 * sigma + grid.spacing[-1]
    )
    # where the border row is renormalised
    np.testing.assert_allclose(profile, expected / expected.sum(), atol=1e-3)
    assert np.count_nonzero(blurred.data) == np.count_nonzero(profile)


def test_orientation_of_the_test_grid_is_seen_by_the_sampler() -> None:
    """What these tests rest on: with the axes left straight, the same samples give other values."""
    grid = oblique_grid(3)
    image, straight = Wave(3).image(grid), Grid.from_spacing(grid.shape, grid.spacing, grid.origin)
    points = between_voxels(grid, 20, torch.Generator().manual_seed(0), torch.float32)
    assert (
        sampling.linear(image, points) - sampling.linear(Image(image.data, straight), points)
    ).abs().max() > 0.5
