"""The gated distance: closed forms of its three parts, gradients to the mask and to the motion, and
a mask that is learned while the motion is.
"""

import math
from collections.abc import Callable

import pytest
import torch
from steps import Given, Table, between_centres, image_of, noise, step_between, voxels_of
from torch import Tensor, nn
from worlds import Wave, oblique_grid

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.objective.features import Window
from inrreg.objective.samplers import RandomPoints
from inrreg.objective.step import Level, Samples, Step
from inrreg.similarity import MSE, GatedDistance
from inrreg.similarity.gated import EDGE, gradient_magnitude
from inrreg.transforms import Translation


def held(mask: Tensor | float) -> Callable[[Step], Tensor]:
    """The logit of a mask that is known."""
    return lambda step: torch.logit(torch.as_tensor(mask, dtype=torch.float64)).expand_as(
        step.weight
    )


def half(grid: Grid, axis: int) -> Tensor:
    """A mask that is 1 from the middle of an axis on and 0 before, ``[1, 1, *shape]``."""
    index = torch.arange(grid.shape[axis]).reshape(
        [-1 if a == axis else 1 for a in range(grid.ndim)]
    )
    return (index >= grid.shape[axis] // 2).double().expand(grid.shape)[None, None]


def test_an_open_gate_is_the_mean_squared_difference(grid: Grid) -> None:
    step = step_between(noise(grid.shape, 1), noise(grid.shape, 2), grid, noise(grid.shape, 3))
    assert float(GatedDistance(held(0.0))(step)) == pytest.approx(float(MSE()(step)))


def test_an_even_mask_pays_for_its_area(grid: Grid) -> None:
    step = step_between(noise(grid.shape, 1), noise(grid.shape, 2), grid, noise(grid.shape, 3))
    assert float(GatedDistance(held(0.3), price=0.2)(step)) == pytest.approx(
        0.7 * float(MSE()(step)) + 0.3 * 0.2
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_the_perimeter_is_a_length_in_mm(axis: int, grid: Grid) -> None:
    """A straight edge across the box: its area over the volume of the box, whatever the voxels."""
    fixed = noise(grid.shape, 1)
    step = step_between(fixed, fixed, grid)
    area = float(half(grid, axis).mean())
    cost = float(GatedDistance(held(half(grid, axis)), price=0.5, perimeter_mm=3.0)(step))
    assert cost == pytest.approx(
        0.5 * (area + 3.0 / (grid.shape[axis] * float(grid.spacing[axis]))), rel=2 * EDGE
    )


def test_a_slope_is_measured_in_world_mm(grid: Grid) -> None:
    """Of a ramp along x, which no axis of the grid follows."""
    ramp = 0.02 * grid.points(torch.float64)[..., 0][None, None]
    slope = gradient_magnitude(ramp, tuple(grid.spacing.tolist()))[
        (0, 0, *[slice(0, -1)] * grid.ndim)
    ]
    torch.testing.assert_close(slope, torch.full_like(slope, math.hypot(0.02, EDGE) - EDGE))


def test_what_the_mask_of_the_image_leaves_out_changes_nothing(grid: Grid) -> None:
    """Nor does what is found there; the first row of it is the neighbour of the last that
    counts.
    """
    left_out = half(grid, 0)
    beyond = (left_out.cumsum(2) > 1) & (left_out > 0)
    step = step_between(noise(grid.shape, 1), noise(grid.shape, 2), grid, 1 - left_out[0])
    found = noise(grid.shape, 4)[None]
    assert float(GatedDistance(held(torch.where(beyond, 0.9, found)))(step)) == float(
        GatedDistance(held(found))(step)
    )


def test_a_site_is_closed_where_its_difference_is_above_the_price(grid: Grid) -> None:
    """Without an edge to pay for, the slope by the logit has the sign of price - d."""
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    logit = torch.zeros(1, 1, *grid.shape, dtype=torch.float64, requires_grad=True)
    GatedDistance(lambda step: logit, price=0.1, perimeter_mm=0.0)(
        step_between(fixed, moving, grid)
    ).backward()
    assert logit.grad is not None
    assert torch.equal(logit.grad[0] < 0, (fixed - moving).square() > 0.1)


def test_its_feature_is_compared(grid: Grid) -> None:
    step = step_between(noise(grid.shape, 1), noise(grid.shape, 2), grid)
    plain, halved = (
        float(GatedDistance(held(0.0), feature=feature)(step))
        for feature in (Window(0, 1), Window(0, 2))
    )
    assert halved == pytest.approx(plain / 4)


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradients_by_the_motion_and_the_mask_are_right(ndim: int) -> None:
    grid = oblique_grid(ndim).cropped((3, 2, 1)[:ndim], (7, 5, 4)[:ndim])
    fixed, moving, weight = (noise(grid.shape, seed) for seed in (1, 2, 3))
    logit = (4 * noise(grid.shape, 6)[None] - 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda u, s: GatedDistance(lambda step: s, price=0.1)(
            step_between(fixed, moving, grid, weight, transform=Table(u))
        ),
        (between_centres(grid), logit),
    )


def test_a_network_that_sees_both_images_learns_from_it(grid: Grid, device: torch.device) -> None:
    images = [image_of(noise(grid.shape, seed), grid).to(device) for seed in (1, 2)]
    points = grid.points(torch.float64, device)[None]
    sites = voxels_of(grid)
    step = Step(
        Samples(
            Level(images[0], images[1], images[0].with_data(torch.ones_like(images[0].data))),
            type(sites)(points, sites.spacing),
        ),
        Given(torch.zeros_like, grid.ndim),
        None,
    )
    network = (nn.Conv2d if grid.ndim == 2 else nn.Conv3d)(
        2, 1, 3, padding=1, dtype=torch.float64, device=device
    )
    GatedDistance(lambda step: network(torch.cat([step.fixed(), step.warped()], 1)))(
        step
    ).backward()
    assert all(
        parameter.grad is not None and float(parameter.grad.abs().sum()) > 0
        for parameter in network.parameters()
    )


def test_loose_points_and_logits_of_another_shape_are_refused(
    grid: Grid, generator: torch.Generator
) -> None:
    plain = step_between(noise(grid.shape, 1), noise(grid.shape, 2), grid)
    points = step_between(
        noise(grid.shape, 1),
        noise(grid.shape, 2),
        grid,
        sites=RandomPoints(20).draw(plain.level.fixed_mask, generator),
    )
    with pytest.raises(InputError, match="needs neighbouring sites"):
        GatedDistance(held(0.5))(points)
    with pytest.raises(InputError, match=r"one logit a site, \(1, 1, .* got \(3,\)"):
        GatedDistance(lambda step: torch.zeros(3))(plain)


# --- learned together with the motion -------------------------------------------------------------

SQUARE = (slice(14, 21), slice(5, 13))
SHIFT = (0.8, -0.6)


def pasted() -> tuple[Tensor, Tensor, Grid]:
    """A wave and the same wave ``SHIFT`` mm away, with a bright square of 5 x 7 mm pasted into the
    one that stays.
    """
    grid, wave = oblique_grid(2), Wave(2)
    points = grid.points(torch.float64)
    fixed, moving = (
        0.2 * wave(place) for place in (3 * (points + torch.tensor(SHIFT)), 3 * points)
    )
    fixed[SQUARE] += 1.0
    return fixed, moving, grid


def learned(price: float, perimeter_mm: float = 2.0) -> tuple[Tensor, Tensor]:
    """The mask, and how far the shift is off, mm, where a free logit field and a translation are
    fitted together.
    """
    fixed, moving, grid = pasted()
    shift, logit = (
        Translation.by([0.0, 0.0]).double(),
        nn.Parameter(torch.full((1, 1, *grid.shape), -2.0, dtype=torch.float64)),
    )
    samples = step_between(fixed, moving, grid).samples
    term = GatedDistance(lambda step: logit, price, perimeter_mm)
    optimiser = torch.optim.Adam(
        [{"params": list(shift.parameters()), "lr": 0.05}, {"params": [logit], "lr": 0.2}]
    )
    for _ in range(150):
        optimiser.zero_grad()
        term(Step(samples, shift, None)).backward()
        optimiser.step()
    with torch.no_grad():
        return (
            logit.sigmoid()[0, 0],
            (
                shift.displacement(torch.zeros(1, 2, dtype=torch.float64))[0] - torch.tensor(SHIFT)
            ).norm(),
        )


def test_the_pasted_square_is_found_and_the_motion_is_right() -> None:
    mask, off = learned(price=0.05)
    truth = torch.zeros_like(mask)
    truth[SQUARE] = 1
    found = mask > 0.5
    assert 2 * float(found[truth > 0].sum()) / float(found.sum() + truth.sum()) > 0.95
    assert float(off) < 0.1


def test_a_gate_that_is_too_dear_stays_open_and_the_motion_is_wrong() -> None:
    mask, off = learned(price=5.0)
    assert float(mask.max()) < 0.1
    assert float(off) > 0.3


def test_an_edge_that_costs_more_than_the_square_does_not_pay() -> None:
    """5 x 7 mm, d about 20 times the price: with an edge of 100 mm at stake nothing is closed."""
    assert float(learned(price=0.05, perimeter_mm=100.0)[0].max()) < 0.5
