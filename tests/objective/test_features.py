"""What measures compare: windows of intensities and edges."""

import numpy as np
import pytest
import torch
from steps import image_of, noise
from worlds import Wave, oblique_grid

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.objective.features import GradientMagnitude, RobustWindow, Window, intensities


def test_intensities_are_the_image(image: Image) -> None:
    assert intensities(image) is image


def test_window_is_linear_between_its_ends_and_clips_beyond(grid: Grid) -> None:
    image = image_of(torch.linspace(-2000, 1000, grid.n_voxels), grid)
    expected = np.interp(image.data.numpy(), [-1000, 200], [0, 1])
    np.testing.assert_allclose(Window(-1000, 200)(image).data, expected, atol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_a_window_without_width_is_refused(low: float, high: float) -> None:
    with pytest.raises(InputError, match="low end below its high one"):
        Window(low, high)


def test_robust_window_is_numpys_percentiles(grid: Grid) -> None:
    image = image_of(noise(grid.shape, 1) ** 3 * 800 - 100, grid)
    low, high = np.percentile(image.data.numpy(), [2, 95])
    np.testing.assert_allclose(
        RobustWindow(2, 95)(image).data,
        np.clip((image.data.numpy() - low) / (high - low), 0, 1),
        atol=1e-9,
    )


def test_robust_window_forgets_gain_offset_and_outliers(grid: Grid) -> None:
    image = image_of(noise(grid.shape, 1), grid)
    expected = RobustWindow()(image)
    torch.testing.assert_close(
        RobustWindow()(image.with_data(250 * image.data - 1000)).data,
        expected.data,
        rtol=0,
        atol=1e-9,
    )
    bright = image.data.clone()
    bright.flatten()[image.data.argmax()] = 1e6
    torch.testing.assert_close(
        RobustWindow()(image.with_data(bright)).data, expected.data, rtol=0, atol=1e-9
    )


def test_a_sparse_image_keeps_its_few_values(grid: Grid) -> None:
    """Fewer voxels than the percentiles leave out: both percentiles are the background."""
    values = torch.zeros(grid.shape)
    values.flatten()[7] = 3.0
    result = RobustWindow()(image_of(values, grid)).data
    assert float(result.max()) == 1
    assert float(result.sum()) == 1


def test_a_constant_image_has_no_window(grid: Grid) -> None:
    with pytest.raises(InputError, match="image is 4 everywhere"):
        RobustWindow()(image_of(torch.full(grid.shape, 4.0), grid))


def test_a_subsample_of_a_large_image_will_do() -> None:
    grid = Grid.from_spacing((1100, 1000), 1.0)
    image = image_of(noise(grid.shape, 1), grid)
    whole = RobustWindow(10, 90)(image).data
    assert float((whole == 0).double().mean()) == pytest.approx(0.1, abs=1e-3)
    # every second voxel is looked at
    image = image_of(noise((2200, 1000), 1), Grid.from_spacing((2200, 1000), 1.0))
    # a million samples
    assert float((RobustWindow(10, 90)(image).data == 1).double().mean()) == pytest.approx(
        0.1, abs=2e-3
    )


def test_gradient_magnitude_of_a_slope_is_its_steepness(grid: Grid) -> None:
    slope = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)[: grid.ndim]
    image = image_of(grid.points(torch.float64) @ slope, grid)
    expected = slope.norm().expand_as(image.data)
    torch.testing.assert_close(GradientMagnitude()(image).data, expected, rtol=1e-9, atol=0)
    # whichever side is brighter
    torch.testing.assert_close(
        GradientMagnitude()(image.with_data(-image.data)).data, expected, rtol=1e-9, atol=0
    )


def test_gradient_magnitude_is_close_to_the_analytic_one() -> None:
    grid = oblique_grid(3)
    wave = Wave(3)
    expected = wave.gradient(grid.points(torch.float64)).norm(dim=-1)
    inner = (slice(1, -1),) * 3  # differences are one-sided at the border
    error = (GradientMagnitude()(wave.image(grid, torch.float64)).data[0] - expected)[inner]
    # (|k| h)^2 / 6 for the 2.5 mm axis and a wavelength of 27 mm is 6 %, shared with the finer axes
    assert float(error.abs().max()) < 0.02 * float(expected.max())
