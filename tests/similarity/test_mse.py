"""The mean squared difference: closed forms, masks, points and gradients."""

import pytest
import torch
from steps import Table, between_centres, noise, step_between
from worlds import oblique_grid

from inrreg.core.grid import Grid
from inrreg.objective.features import Window
from inrreg.objective.samplers import RandomPoints
from inrreg.similarity import MSE


def test_closed_forms(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    assert float(MSE()(step_between(fixed, fixed, grid))) == pytest.approx(0, abs=1e-20)
    assert float(MSE()(step_between(fixed, fixed - 3, grid))) == pytest.approx(9)
    assert float(MSE()(step_between(fixed, -fixed, grid))) == pytest.approx(
        float((4 * fixed**2).mean())
    )


def test_channels_are_averaged(grid: Grid) -> None:
    fixed = noise(grid.shape, 1, channels=2)
    offset = torch.tensor([1.0, 3.0]).reshape(2, *[1] * grid.ndim)
    assert float(MSE()(step_between(fixed, fixed + offset, grid))) == pytest.approx((1 + 9) / 2)


def test_is_a_weighted_mean(grid: Grid) -> None:
    fixed, moving, weight = noise(grid.shape, 1), noise(grid.shape, 2), noise(grid.shape, 3)
    expected = float((weight * (fixed - moving) ** 2).sum() / weight.sum())
    assert float(MSE()(step_between(fixed, moving, grid, weight))) == pytest.approx(expected)


def test_what_the_mask_leaves_out_changes_nothing(grid: Grid) -> None:
    fixed, moving, mask = noise(grid.shape, 1), noise(grid.shape, 2), noise(grid.shape, 3) > 0.5
    expected = MSE()(step_between(fixed, moving, grid, mask))
    absurd = MSE()(step_between(torch.where(mask, fixed, 1e6), moving, grid, mask))
    assert float(absurd) == float(expected)


def test_an_empty_mask_costs_nothing(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    assert float(MSE()(step_between(fixed, 1 - fixed, grid, torch.zeros(grid.shape)))) == 0


def test_its_feature_is_compared(grid: Grid) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    halves = MSE(feature=Window(0, 2))(step_between(fixed, moving, grid))
    assert float(halves) == pytest.approx(float(MSE()(step_between(fixed, moving, grid))) / 4)


def test_points_take_the_mean_over_the_image(grid: Grid, generator: torch.Generator) -> None:
    fixed = noise(grid.shape, 1)
    plain = step_between(fixed, fixed + 2, grid)
    points = RandomPoints(500).draw(plain.level.fixed_mask, generator)
    # points in single precision
    assert float(MSE()(step_between(fixed, fixed + 2, grid, sites=points))) == pytest.approx(
        4, abs=1e-5
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_by_the_motion_is_right(ndim: int) -> None:
    grid = oblique_grid(ndim).cropped((3, 2, 1)[:ndim], (7, 5, 4)[:ndim])
    fixed, moving, weight = (noise(grid.shape, seed) for seed in (1, 2, 3))
    assert torch.autograd.gradcheck(
        lambda u: MSE()(step_between(fixed, moving, grid, weight, transform=Table(u))),
        between_centres(grid),
    )
