"""Levels of the Gaussian pyramid: place, size and damping."""

import numpy as np
import torch
from worlds import oblique

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.pyramid import pyramid_level


def test_pyramid_level_keeps_linear_functions_in_place(grid: Grid) -> None:
    grid = Grid(tuple(6 * n for n in grid.shape), grid.affine)
    slope = torch.tensor([0.3, -0.5, 0.2][: grid.ndim], dtype=torch.float64)
    image = Image((grid.points(torch.float64) @ slope)[None], grid)
    level = pyramid_level(image, 3.0)
    np.testing.assert_allclose(level.grid.spacing, 3.0)
    assert level.grid.aligned_with(grid)
    inner = tuple(slice(1, -1) for _ in level.grid.shape)  # blurring bends the outermost samples
    torch.testing.assert_close(
        level.data[0][inner], (level.grid.points(torch.float64) @ slope)[inner], rtol=0, atol=0.01
    )


def test_pyramid_level_keeps_eight_voxels_of_a_thin_stack() -> None:
    stack = Image.from_array(
        np.random.default_rng(0).random((60, 50, 5)),
        Grid.from_spacing((60, 50, 5), (1.0, 1.0, 4.0)),
    )
    assert pyramid_level(stack, 16.0).grid.shape == (8, 8, 5)


def test_pyramid_level_leaves_finer_images_alone(image: Image) -> None:
    assert pyramid_level(image, 0.1) is image


def test_pyramid_level_damps_what_the_coarse_grid_cannot_hold() -> None:
    grid = Grid.from_spacing((80, 60), (1.0, 1.0), (20.0, -30.0), oblique(2))
    # 5 mm waves along i, which samples 4 mm apart would show as waves of 20 mm
    k = 2 * torch.pi / 5.0
    direction = torch.tensor(grid.direction[:, 0].copy())
    level = pyramid_level(
        Image(torch.cos(k * (grid.points(torch.float64) @ direction))[None], grid), 4.0
    )
    # a Gaussian of half of sqrt(4^2 - 1^2) mm, then the mean of two neighbours, since the coarse
    # centres lie midway
    damping = np.exp(-0.5 * k**2 * (16 - 1) / 4) * np.cos(k / 2)
    expected = damping * torch.cos(k * (level.grid.points(torch.float64) @ direction))
    assert damping < 0.05
    # cut at 4 sigma: exp(-8)
    torch.testing.assert_close(level.data[0, 3:-3], expected[3:-3], rtol=0, atol=1e-3)
