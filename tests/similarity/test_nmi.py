"""Normalised mutual information: closed forms on separated levels, scipy's histogram window, its
invariances and gradients.
"""

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from scipy.stats import entropy as scipys_entropy
from steps import Table, between_centres, noise, step_between
from torch import Tensor
from worlds import oblique_grid

from inrreg.core.grid import Grid
from inrreg.objective.samplers import RandomPoints
from inrreg.similarity import NMI
from inrreg.similarity.nmi import entropy, joint_density, parzen

BINS = 32
LEVELS = torch.tensor([1, 5, 10, 14, 19, 23], dtype=torch.float64) / (BINS - 3)
"""Intensities at the centres of bins four or more apart: no value shares a bin with another."""
SPREAD = float(scipys_entropy([1 / 6, 2 / 3, 1 / 6]))
"""What the window alone leaves uncertain about a value at the centre of a bin."""


def level_numbers(grid: Grid) -> Tensor:
    """Each level equally often, in a random order."""
    count = grid.n_voxels // len(LEVELS) * len(LEVELS)
    order = torch.randperm(grid.n_voxels, generator=torch.Generator().manual_seed(1))
    return (
        torch.full((grid.n_voxels,), -1)
        .index_copy(0, order[:count], torch.arange(count) % len(LEVELS))
        .reshape(grid.shape)
    )


def test_closed_form_of_a_perfect_match(grid: Grid) -> None:
    """Equal levels: H(F) = H(W) = log n + h and H(F, W) = log n + 2 h with the entropy h of the
    window.
    """
    numbers = level_numbers(grid)
    image, used = LEVELS[numbers.clamp(min=0)], numbers >= 0
    expected = 2 - 2 * (np.log(6) + SPREAD) / (np.log(6) + 2 * SPREAD)
    assert float(NMI()(step_between(image, image, grid, used))) == pytest.approx(expected, abs=1e-9)


def test_any_exchange_of_levels_is_as_good_a_match(grid: Grid) -> None:
    numbers = level_numbers(grid)
    fixed, used = LEVELS[numbers.clamp(min=0)], numbers >= 0
    expected = float(NMI()(step_between(fixed, fixed, grid, used)))
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]):
        assert float(
            NMI()(step_between(fixed, LEVELS[order][numbers.clamp(min=0)], grid, used))
        ) == pytest.approx(expected, abs=1e-9)


def test_a_level_that_is_lost_costs(grid: Grid) -> None:
    numbers = level_numbers(grid)
    fixed, used = LEVELS[numbers.clamp(min=0)], numbers >= 0
    merged = LEVELS[[0, 0, 2, 3, 4, 5]][numbers.clamp(min=0)]
    assert (
        float(NMI()(step_between(fixed, merged, grid, used)))
        > float(NMI()(step_between(fixed, fixed, grid, used))) + 0.01
    )


def test_inverting_an_image_changes_nothing(grid: Grid) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2) ** 2
    expected = float(NMI()(step_between(fixed, moving, grid)))
    assert float(NMI()(step_between(fixed, 1 - moving, grid))) == pytest.approx(expected, abs=1e-9)
    assert float(NMI()(step_between(1 - fixed, moving, grid))) == pytest.approx(expected, abs=1e-9)


def test_a_monotone_remap_of_a_smooth_match_changes_little() -> None:
    grid = Grid.from_spacing((100, 100), 1.0)
    fixed = noise(grid.shape, 1)
    plain, remapped = (
        float(NMI()(step_between(fixed, moving, grid))) for moving in (fixed, fixed**1.5)
    )
    assert plain == pytest.approx(0.52, abs=0.01)  # as the docstring says
    assert remapped == pytest.approx(plain, abs=0.05)  # stretched values fill the bins unevenly


def test_independent_images_give_one() -> None:
    a, b = (noise((200_000,), seed)[0] for seed in (1, 2))
    joint = joint_density(parzen(a, BINS), parzen(b, BINS))
    mutual = 2 - float((entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint))
    # a finite sample looks dependent by up to (bins - 1)^2 / (2 n H) = 4e-4
    assert mutual == pytest.approx(1, abs=1e-3)


def test_a_constant_image_gives_one(grid: Grid) -> None:
    assert float(
        NMI()(step_between(noise(grid.shape, 1), torch.full(grid.shape, 0.3), grid))
    ) == pytest.approx(1, abs=1e-9)


def test_window_is_scipys_bspline_and_a_partition_of_unity() -> None:
    values = noise((500,), 1)[0] * 1.2 - 0.1
    bump = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
    offset = 1 + values.clamp(0, 1).numpy()[:, None] * (BINS - 3) - np.arange(BINS)
    np.testing.assert_allclose(parzen(values, BINS), np.nan_to_num(bump(offset)), atol=1e-12)
    torch.testing.assert_close(parzen(values, BINS).sum(1), torch.ones(500, dtype=torch.float64))


def test_entropy_is_scipys(generator: torch.Generator) -> None:
    density = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    density[2, 3] = 0.0
    density /= density.sum()
    assert float(entropy(density)) == pytest.approx(float(scipys_entropy(density.numpy().ravel())))


def test_what_the_mask_leaves_out_changes_nothing(grid: Grid) -> None:
    fixed, moving, mask = noise(grid.shape, 1), noise(grid.shape, 2), noise(grid.shape, 3) > 0.5
    expected = NMI()(step_between(fixed, moving, grid, mask))
    absurd = NMI()(step_between(torch.where(mask, fixed, 1e6), moving, grid, mask))
    assert float(absurd) == pytest.approx(float(expected), abs=1e-9)


def test_points_serve_as_well_as_the_grid(grid: Grid, generator: torch.Generator) -> None:
    fixed = noise(grid.shape, 1)
    points = RandomPoints(3000).draw(step_between(fixed, fixed, grid).level.fixed_mask, generator)
    match, chance = (
        float(NMI()(step_between(fixed, moving, grid, sites=points)))
        for moving in (1 - fixed, noise(grid.shape, 2))
    )
    assert match < 0.6 < 0.9 < chance


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_by_the_motion_is_right(ndim: int) -> None:
    grid = oblique_grid(ndim).cropped((3, 2, 1)[:ndim], (7, 5, 4)[:ndim])
    fixed, moving, weight = (noise(grid.shape, seed) for seed in (1, 2, 3))
    assert torch.autograd.gradcheck(
        lambda u: NMI(bins=8)(step_between(fixed, moving, grid, weight, transform=Table(u))),
        between_centres(grid),
        atol=1e-5,
    )
