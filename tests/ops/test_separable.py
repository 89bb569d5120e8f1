"""Operators along the index axes against scipy and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import interpolate, ndimage
from worlds import Wave, grids, oblique_grid

from inrreg.core.errors import FrameError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.sampling import linear
from inrreg.ops.separable import (
    apply_along_axes,
    axis_positions,
    basis,
    cubic_weights,
    gaussian,
    linear_weights,
    mirror,
    resampling,
    smoothing,
    spline_coefficients,
    taps,
)

FRACTIONS = torch.linspace(0, 1, 11, dtype=torch.float64)
# the cubic B-spline around 0
BUMP = interpolate.BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
HAT = interpolate.BSpline.basis_element(np.arange(-1.0, 2.0), extrapolate=False)


@pytest.mark.parametrize("ndim", [2, 3])
def test_apply_along_axes_is_a_tensor_product(
    ndim: int, generator: torch.Generator, device: torch.device
) -> None:
    shape, out = (4, 5, 6)[:ndim], (3, 7, 2)[:ndim]
    data = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    matrices = [
        torch.rand(m, n, generator=generator, dtype=torch.float64)
        for m, n in zip(out, shape, strict=True)
    ]
    expected = torch.einsum(
        "cab,ia,jb->cij" if ndim == 2 else "cabd,ia,jb,kd->cijk", data, *matrices
    )
    torch.testing.assert_close(
        apply_along_axes(data.to(device), [m.numpy() for m in matrices]).cpu(), expected
    )


@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_cubic_weights_are_scipys_bspline(derivative: int) -> None:
    for offset, weight in zip((-1, 0, 1, 2), cubic_weights(FRACTIONS, derivative), strict=True):
        expected = np.nan_to_num(BUMP(FRACTIONS.numpy() - offset, nu=derivative))
        # at the knots scipy's support is half open
        np.testing.assert_allclose(weight[1:-1], expected[1:-1], atol=1e-12)


def test_linear_weights_are_scipys_bspline() -> None:
    for derivative in (0, 1):
        for offset, weight in zip((0, 1), linear_weights(FRACTIONS, derivative), strict=True):
            np.testing.assert_allclose(
                weight[1:-1], HAT(FRACTIONS.numpy()[1:-1] - offset, nu=derivative), atol=1e-12
            )
    assert all((weight == 0).all() for weight in linear_weights(FRACTIONS, 2))


def test_weights_are_a_partition_of_unity() -> None:
    for weights in (cubic_weights, linear_weights):
        torch.testing.assert_close(sum(weights(FRACTIONS)), torch.ones_like(FRACTIONS))
        for derivative in (1, 2):
            torch.testing.assert_close(
                sum(weights(FRACTIONS, derivative)), torch.zeros_like(FRACTIONS), rtol=0, atol=1e-12
            )


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_mirror_is_numpys_reflection(n: int) -> None:
    expected = np.pad(np.arange(n), 3, mode="reflect") if n > 1 else np.zeros(7, dtype=int)
    np.testing.assert_array_equal(mirror(torch.arange(-3, n + 3), n), expected)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("order", [1, 3])
def test_taps_stay_within_the_axis(n: int, order: int) -> None:
    voxel = torch.tensor(
        [-7.3, -0.1, 0.0, 0.5, 1.0, n - 1.0, n - 0.5, n + 9.0, float("nan"), float("inf")]
    )
    for index in taps(voxel, n, order)[0]:
        assert index.min() >= 0
        assert index.max() <= n - 1


@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_cubic_basis_is_scipys_design(derivative: int) -> None:
    n = 9
    voxels = torch.linspace(1.0, n - 2.0, 40, dtype=torch.float64)  # where no sample is mirrored
    splines = [
        interpolate.BSpline(np.arange(-4.0, n + 4.0), np.eye(n + 4)[k + 2], 3) for k in range(n)
    ]
    expected = np.stack([spline(voxels.numpy(), nu=derivative) for spline in splines], -1)
    np.testing.assert_allclose(basis(voxels, n, 3, derivative), expected, atol=1e-12)


def test_linear_basis_is_numpys_interpolation(generator: torch.Generator) -> None:
    samples = torch.rand(8, generator=generator, dtype=torch.float64).numpy()
    voxels = torch.linspace(-3, 11, 57, dtype=torch.float64)
    np.testing.assert_allclose(
        basis(voxels, 8, order=1) @ samples,
        np.interp(voxels.numpy(), np.arange(8), samples),
        atol=1e-12,
    )


@pytest.mark.parametrize(("order", "derivative"), [(1, 1), (3, 1), (3, 2)])
def test_derivatives_vanish_where_the_border_value_is_held(order: int, derivative: int) -> None:
    voxels = torch.tensor([-4.0, -0.2, 6.2, 30.0], dtype=torch.float64)
    np.testing.assert_array_equal(basis(voxels, 7, order, derivative), np.zeros((4, 7)))
    assert np.abs(basis(voxels.clamp(0, 6), 7, order, 0)).max() > 0


@pytest.mark.parametrize("n", [1, 2, 3, 8, 30])
def test_spline_coefficients_are_scipys_and_interpolate(n: int, generator: torch.Generator) -> None:
    samples = torch.rand(n, generator=generator, dtype=torch.float64).numpy()
    coefficients = spline_coefficients(n) @ samples
    if n > 1:
        np.testing.assert_allclose(
            coefficients, ndimage.spline_filter1d(samples, order=3, mode="mirror"), atol=1e-12
        )
    np.testing.assert_allclose(
        basis(torch.arange(n, dtype=torch.float64), n) @ coefficients, samples, atol=1e-12
    )


def test_gaussian_is_scipys_away_from_the_border(generator: torch.Generator) -> None:
    signal = torch.rand(40, generator=generator, dtype=torch.float64).numpy()
    sigma = 1.25  # both cut at 4 sigma = 5 samples
    np.testing.assert_allclose(
        (gaussian(40, sigma) @ signal)[5:-5],
        ndimage.gaussian_filter1d(signal, sigma, truncate=4.0)[5:-5],
        atol=1e-12,
    )


@given(n=st.integers(1, 20), sigma=st.floats(0.01, 8))
def test_gaussian_keeps_constants_and_sigma_0_keeps_all(n: int, sigma: float) -> None:
    np.testing.assert_allclose(gaussian(n, sigma).sum(1), 1.0, atol=1e-12)
    np.testing.assert_array_equal(gaussian(n, 0.0), np.eye(n))


def test_smoothing_damps_a_plane_wave_by_its_transfer_function() -> None:
    grid = Grid.from_spacing(
        (60, 50, 30), (0.7, 0.9, 2.5), (5.0, -6.0, 7.0), oblique_grid(3).direction
    )
    wave_vector, sigma = torch.tensor([0.3, -0.2, 0.25], dtype=torch.float64), 2.5
    image = torch.cos(grid.points(torch.float64) @ wave_vector)
    blurred = apply_along_axes(image[None], smoothing(grid, sigma))[0]
    inner = tuple(slice(m, n - m) for n, m in zip(grid.shape, (15, 12, 5), strict=True))
    # exp(-k^2 sigma^2 / 2) for a Gaussian isotropic in mm; 1e-3 for its being cut at 4 sigma and
    # sampled at sigma = 1 voxel
    torch.testing.assert_close(
        blurred[inner],
        image[inner] * torch.exp(-0.5 * (wave_vector @ wave_vector) * sigma**2),
        rtol=0,
        atol=1e-3,
    )


def test_smoothing_takes_one_sigma_for_each_axis(grid_3d: Grid) -> None:
    along_j = smoothing(grid_3d, [0.0, 1.8, 0.0])
    np.testing.assert_array_equal(along_j[0], np.eye(17))
    np.testing.assert_allclose(along_j[1], gaussian(14, 2.0))
    np.testing.assert_array_equal(along_j[2], np.eye(9))


@given(grid=grids(max_size=5), spacing=st.floats(0.5, 3.0), margin=st.integers(0, 2))
def test_axis_positions_are_the_voxels_of_the_points(
    grid: Grid, spacing: float, margin: int
) -> None:
    target = grid.covering(max(spacing, float(grid.spacing.max()) / 4), margin)
    positions = axis_positions(target, grid)
    voxels = grid.to_voxel(target.points(torch.float64))
    torch.testing.assert_close(
        torch.stack(torch.meshgrid(*positions, indexing="ij"), -1), voxels, rtol=0, atol=1e-8
    )


def test_axis_positions_refuse_other_axes(grid: Grid) -> None:
    with pytest.raises(FrameError, match="different axes; sample at points instead"):
        axis_positions(grid, Grid.from_spacing(grid.shape, grid.spacing, grid.origin))


@given(grid=grids(max_size=6), spacing=st.floats(0.5, 6.0))
def test_resampling_is_interpolation_at_points(grid: Grid, spacing: float) -> None:
    target = grid.covering(max(spacing, float(grid.spacing.max()) / 4), margin=1)
    image = Wave(grid.ndim).image(grid, torch.float64)
    torch.testing.assert_close(
        apply_along_axes(image.data, resampling(target, grid)),
        linear(image, target.points(torch.float64)),
        rtol=0,
        atol=1e-8,
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_resampling_derivatives_are_per_mm_along_the_index_axis(grid_3d: Grid, axis: int) -> None:
    wave = Wave(3)
    coefficients = apply_along_axes(
        wave.image(grid_3d, torch.float64).data, [spline_coefficients(n) for n in grid_3d.shape]
    )
    target = grid_3d.cropped([4, 4, 3], [13, 10, 6])
    slope = apply_along_axes(
        coefficients,
        resampling(target, grid_3d, order=3, derivatives=[int(a == axis) for a in range(3)]),
    )[0]
    expected = wave.gradient(target.points(torch.float64)) @ torch.tensor(
        grid_3d.direction[:, axis].copy()
    )
    # the slope of the cubic interpolant at a knot is exact to (k h)^4 / 180 relative, here below
    # 1e-3, plus what the mirrored border leaves
    torch.testing.assert_close(slope, expected, rtol=0, atol=5e-3)


def test_operators_are_linear_and_batch_over_channels(
    grid: Grid, generator: torch.Generator
) -> None:
    data = torch.rand(3, *grid.shape, generator=generator, dtype=torch.float64)
    image = Image(data, grid)
    matrices = smoothing(grid, 1.5)
    looped = torch.cat([apply_along_axes(channel[None], matrices) for channel in image.data])
    torch.testing.assert_close(apply_along_axes(image.data, matrices), looped)
    torch.testing.assert_close(
        apply_along_axes(2 * data[:1] - data[1:2], matrices), 2 * looped[:1] - looped[1:2]
    )
