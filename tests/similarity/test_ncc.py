"""The global correlation coefficient against numpy, with its invariances, masks and gradients."""

import numpy as np
import pytest
import torch
from steps import Table, between_centres, noise, step_between
from worlds import oblique_grid

from inrreg.core.grid import Grid
from inrreg.objective.samplers import RandomPoints
from inrreg.similarity import NCC


def test_identical_and_inverted_images(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    assert float(NCC()(step_between(fixed, fixed, grid))) == pytest.approx(0, abs=1e-9)
    assert float(NCC()(step_between(fixed, 1 - fixed, grid))) == pytest.approx(2, abs=1e-9)


def test_equals_numpys_correlation_coefficient(grid: Grid) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    assert float(NCC()(step_between(fixed, moving, grid))) == pytest.approx(
        1 - np.corrcoef(fixed.numpy().ravel(), moving.numpy().ravel())[0, 1], abs=1e-9
    )


def test_weights_are_those_of_numpys_weighted_covariance(grid: Grid) -> None:
    fixed, moving, weight = (noise(grid.shape, seed) for seed in (1, 2, 3))
    covariance = np.cov(
        fixed.numpy().ravel(), moving.numpy().ravel(), aweights=weight.numpy().ravel(), ddof=0
    )
    expected = 1 - covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert float(NCC()(step_between(fixed, moving, grid, weight))) == pytest.approx(
        expected, abs=1e-9
    )


@pytest.mark.parametrize("gain", [1e-5, 1e-3, 250.0, 1e5])
def test_gain_and_offset_change_nothing(grid: Grid, gain: float) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    expected = float(NCC()(step_between(fixed, moving, grid)))
    assert float(NCC()(step_between(fixed, gain * (moving - 3), grid))) == pytest.approx(
        expected, abs=1e-9
    )
    assert float(NCC()(step_between(gain * (fixed - 3), moving, grid))) == pytest.approx(
        expected, abs=1e-9
    )


def test_a_constant_image_correlates_with_nothing(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    u = between_centres(grid)
    step = step_between(fixed, torch.full(grid.shape, 7.25), grid, transform=Table(u))
    cost = NCC()(step)
    cost.backward()
    assert float(cost.detach()) == pytest.approx(1, abs=1e-6)
    assert u.grad is not None
    assert bool(torch.isfinite(u.grad).all())


def test_what_the_mask_leaves_out_changes_nothing(grid: Grid) -> None:
    fixed, moving, mask = noise(grid.shape, 1), noise(grid.shape, 2), noise(grid.shape, 3) > 0.5
    expected = NCC()(step_between(fixed, moving, grid, mask))
    absurd = NCC()(step_between(torch.where(mask, fixed, 1e6), moving, grid, mask))
    assert float(absurd) == pytest.approx(float(expected), abs=1e-9)


def test_channels_are_averaged(grid: Grid) -> None:
    fixed, moving = noise(grid.shape, 1, channels=2), noise(grid.shape, 2, channels=2)
    each = [float(NCC()(step_between(fixed[c], moving[c], grid))) for c in range(2)]
    assert float(NCC()(step_between(fixed, 3 * moving, grid))) == pytest.approx(
        np.mean(each), abs=1e-9
    )


def test_points_serve_as_well_as_the_grid(grid: Grid, generator: torch.Generator) -> None:
    """All points of one step share one mean: a batch of lattices is no batch of images."""
    fixed = noise(grid.shape, 1)
    points = RandomPoints(400).draw(step_between(fixed, fixed, grid).level.fixed_mask, generator)
    # points in single precision
    assert float(NCC()(step_between(fixed, 2 * fixed - 1, grid, sites=points))) == pytest.approx(
        0, abs=1e-5
    )
    assert float(NCC()(step_between(fixed, -fixed, grid, sites=points))) == pytest.approx(
        2, abs=1e-5
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_by_the_motion_is_right(ndim: int) -> None:
    grid = oblique_grid(ndim).cropped((3, 2, 1)[:ndim], (7, 5, 4)[:ndim])
    fixed, moving, weight = (noise(grid.shape, seed) for seed in (1, 2, 3))
    assert torch.autograd.gradcheck(
        lambda u: NCC()(step_between(fixed, moving, grid, weight, transform=Table(u))),
        between_centres(grid),
    )
