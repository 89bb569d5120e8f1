"""Penalties: closed forms on oblique anisotropic lattices, independence of sampling and of the
world's axes, folds, gradients.
"""

import math

import numpy as np
import pytest
import torch
from evaluation_cases import quadratic_about
from steps import Given, geometry, voxels_of, whole
from torch import Tensor
from worlds import TRANSFORMS, Wave, oblique, oblique_grid

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.objective.samplers import Patches, RandomPoints, Sites
from inrreg.objective.step import Step, Term
from inrreg.penalties import Bending, Diffusion, Folding, LogJacobian, TotalVariation
from inrreg.transforms import Transform, identity

PENALTIES: list[Term] = [Bending(), Diffusion(), Folding(), LogJacobian(), TotalVariation()]
each = pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: p.name)


def linear(matrix: Tensor, center: np.ndarray) -> Given:
    """u(x) = A (x - c)."""
    return Given(lambda points: (points - torch.tensor(center)) @ matrix.T, len(matrix))


def gradient_of(ndim: int, seed: int = 0, size: float = 0.3) -> Tensor:
    return size * torch.randn(
        ndim, ndim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def arrangements(grid: Grid) -> list[Sites]:
    """The same region as a grid of points, as small patches and as loose points; the last two in
    single precision.
    """
    mask = Wave(grid.ndim).image(grid).with_data(torch.ones(1, *grid.shape))
    generator = torch.Generator().manual_seed(0)
    return [
        voxels_of(grid),
        Patches(30, 3).draw(mask, generator),
        RandomPoints(100).draw(mask, generator),
    ]


# --- closed forms ---------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("sites", [whole, voxels_of])
def test_the_identity_costs_nothing(grid: Grid, penalty: Term, sites: type) -> None:
    assert float(penalty(geometry(identity(grid.ndim).requires_grad_(False), sites(grid)))) == 0


def test_linear_maps(grid: Grid) -> None:
    matrix = gradient_of(grid.ndim)
    norm, det = float(matrix.norm()), float(torch.linalg.det(torch.eye(grid.ndim) + matrix))
    assert det > 0.25
    for sites in arrangements(grid):
        step = geometry(linear(matrix, grid.center), Sites(sites.points.double(), sites.spacing))
        assert float(Diffusion()(step)) == pytest.approx(norm**2)
        assert float(LogJacobian()(step)) == pytest.approx(math.log(det) ** 2)
        assert float(TotalVariation(smoothing=0.05)(step)) == pytest.approx(
            math.hypot(norm, 0.05) - 0.05
        )
        assert float(TotalVariation(smoothing=1e-6)(step)) == pytest.approx(norm, rel=1e-5)
        assert float(Folding(least=0.2)(step)) == 0
        assert float(Folding(least=2 * det)(step)) == pytest.approx(0.25)
    for sites in arrangements(grid)[:2]:
        assert float(
            Bending()(
                geometry(linear(matrix, grid.center), Sites(sites.points.double(), sites.spacing))
            )
        ) == pytest.approx(0, abs=1e-20)


def test_quadratic_maps_bend_by_their_second_derivatives(grid: Grid) -> None:
    """u_i = (x - c)' Q_i (x - c) / 2 has the second derivatives Q_i everywhere, whatever the axes
    of the lattice.
    """
    transform = quadratic_about(grid)
    for sites in arrangements(grid)[:2]:
        step = geometry(transform, Sites(sites.points.double(), sites.spacing))
        # points drawn in single precision
        assert float(Bending()(step)) == pytest.approx(float(transform.q.square().sum()), rel=1e-6)


def test_a_pure_scaling_by_axis_gives_its_determinant(grid: Grid) -> None:
    matrix = torch.diag(torch.tensor([0.5, -0.2, 0.1], dtype=torch.float64)[: grid.ndim])
    volume = math.prod([1.5, 0.8, 1.1][: grid.ndim])
    assert float(
        LogJacobian()(geometry(linear(matrix, grid.center), voxels_of(grid)))
    ) == pytest.approx(math.log(volume) ** 2)
    shrunk = float(
        LogJacobian()(
            geometry(
                linear(
                    torch.linalg.inv(torch.eye(grid.ndim) + matrix) - torch.eye(grid.ndim),
                    grid.center,
                ),
                voxels_of(grid),
            )
        )
    )
    assert shrunk == pytest.approx(math.log(volume) ** 2)  # growth and shrinkage cost the same


def test_a_turn_costs_diffusion_but_no_volume() -> None:
    turn = torch.tensor(oblique(3)) - torch.eye(3)
    step = geometry(linear(turn, oblique_grid(3).center), voxels_of(oblique_grid(3)))
    assert float(LogJacobian()(step)) == pytest.approx(0, abs=1e-20)
    assert float(Diffusion()(step)) == pytest.approx(float(turn.square().sum()))


def test_total_variation_charges_a_jump_by_its_height_only() -> None:
    """A step of 4 mm, smeared over 2 or 8 mm: the same total variation, where diffusion falls to a
    quarter.
    """
    grid = Grid.from_spacing((401, 3), (0.1, 1.0), (-20.0, 0.0))

    def smeared(width: float) -> Given:
        return Given(
            lambda x: torch.stack([0 * x[..., 0], 2 * torch.tanh(x[..., 0] / width)], -1), 2
        )

    steep, mild = (geometry(smeared(width), voxels_of(grid)) for width in (1.0, 4.0))
    expected = 4 / 40.1  # height over the length of the lattice
    for step in (steep, mild):
        assert float(TotalVariation(smoothing=1e-4)(step)) == pytest.approx(expected, rel=1e-2)
    assert float(Diffusion()(mild)) == pytest.approx(float(Diffusion()(steep)) / 4, rel=1e-2)


# --- independence of how it is looked at ----------------------------------------------------------


@each
def test_sampling_at_one_and_two_mm_gives_the_same(penalty: Term) -> None:
    ndim = 3
    field = Given(
        lambda x: torch.stack([2.5 * Wave(ndim)(x + 20 * a) for a in range(ndim)], -1), ndim
    )
    fine = Grid.from_spacing((32, 28, 24), 1.0, (-31.0, 47.0, 112.0), oblique(ndim))
    at_1_mm, at_2_mm = (
        float(penalty(geometry(field, voxels_of(grid)))) for grid in (fine, fine.resampled(2.0))
    )
    assert at_1_mm > 1e-3
    # waves of 25 to 60 mm: sums and differences of step h err by (2 pi h / 25)^2 / 12 to / 24, 2 %
    # at 2 mm; the sites of the coarse lattice end half a mm further in
    assert at_2_mm == pytest.approx(at_1_mm, rel=0.05)


@each
def test_the_axes_of_the_world_do_not_matter(grid: Grid, penalty: Term) -> None:
    d = grid.ndim
    turn = torch.tensor(oblique(d) @ np.diag([-1.0, *[1.0] * (d - 1)]))  # a turn and a flip
    field = Given(lambda x: torch.stack([2.5 * Wave(d)(x + 20 * a) for a in range(d)], -1), d)
    turned = Given(lambda x: field.displacement(x @ turn) @ turn.T, d)
    moved = Grid(
        grid.shape,
        np.block(
            [
                [turn.numpy() @ grid.matrix, (turn.numpy() @ grid.origin)[:, None]],
                [np.zeros((1, d)), np.ones((1, 1))],
            ]
        ),
    )
    here, there = (
        float(penalty(geometry(field, voxels_of(grid)))),
        float(penalty(geometry(turned, voxels_of(moved)))),
    )
    assert here > 1e-3
    assert there == pytest.approx(here, rel=1e-9)


@each
def test_grids_and_points_agree_for_real_transforms(
    grid: Grid, generator: torch.Generator, penalty: Term
) -> None:
    transform = TRANSFORMS["bspline"](grid, generator).requires_grad_(False)
    rendered, pointwise = (
        float(penalty(geometry(transform, sites(grid)))) for sites in (whole, voxels_of)
    )
    # rendered in the precision of its coefficients at places that are exact, or at points
    assert rendered == pytest.approx(pointwise, rel=1e-5)


# --- folds ----------------------------------------------------------------------------------------


def scaled(s: float | Tensor) -> Transform:
    """u that scales x by s, so that det J = s."""
    return Given(lambda x: torch.cat([(s - 1) * x[..., :1], 0 * x[..., 1:]], -1), 3)


SITES = voxels_of(oblique_grid(3))


def test_folding_is_a_barrier_below_its_least_volume() -> None:
    values = {
        s: float(Folding(least=0.2)(geometry(scaled(s), SITES)))
        for s in (1.0, 0.2001, 0.1, 0.0, -0.2)
    }
    assert values[1.0] == values[0.2001] == 0
    assert values[0.1] == pytest.approx(0.25)
    assert values[0.0] == pytest.approx(1)
    assert values[-0.2] == pytest.approx(4)  # and it grows beyond


def test_log_jacobian_continues_as_a_line_through_zero_volume() -> None:
    least = 0.05
    above, below = (
        float(LogJacobian(least=least)(geometry(scaled(least + e), SITES))) ** 0.5
        for e in (1e-6, -1e-6)
    )
    assert above == pytest.approx(below, rel=1e-4)
    # with the slope of the logarithm there
    assert (below - above) / 2e-6 == pytest.approx(1 / least, rel=1e-3)
    assert float(LogJacobian(least=least)(geometry(scaled(-0.1), SITES))) == pytest.approx(
        (math.log(least) - 0.15 / least) ** 2
    )


@pytest.mark.parametrize("penalty", [Folding(), LogJacobian()], ids=lambda p: p.name)
@pytest.mark.parametrize("folded", [-3.0, -0.1, 0.0, 0.1])
def test_a_fold_is_pushed_out(penalty: Term, folded: float) -> None:
    s = torch.tensor(folded, dtype=torch.float64, requires_grad=True)
    penalty(geometry(scaled(s), SITES)).backward()
    assert s.grad is not None
    assert float(s.grad) < -0.5  # descending, the volume grows


def test_bending_of_loose_points_is_refused(grid: Grid) -> None:
    with pytest.raises(InputError, match="give its level a grid or patches as penalty_sampler"):
        Bending()(geometry(identity(grid.ndim), arrangements(grid)[2]))


# --- gradients ------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("shrink", [0.3, 1.2], ids=["smooth", "folded"])
def test_gradient_is_that_of_central_differences(grid: Grid, penalty: Term, shrink: float) -> None:
    """u = A sin(K (x - c)) with A = -shrink / K, so that Du = -shrink in the middle, and -1 or less
    is a fold.
    """
    small = grid.cropped([3, 2, 1][: grid.ndim], [7, 5, 4][: grid.ndim])
    waves = gradient_of(grid.ndim, seed=3, size=0.5) + 0.5 * torch.eye(grid.ndim)

    def step(matrix: Tensor) -> Step:
        return geometry(
            Given(
                lambda x: torch.sin((x - torch.tensor(small.center)) @ waves.T) @ matrix.T,
                grid.ndim,
            ),
            voxels_of(small),
        )

    matrix = (-shrink * torch.linalg.inv(waves)).requires_grad_()
    assert (float(torch.linalg.det(step(matrix).jacobian).min().detach()) < 0) == (shrink > 1)
    assert torch.autograd.gradcheck(lambda a: penalty(step(a)), matrix)
