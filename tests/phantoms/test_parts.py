"""What the breathing chest is made of: random fields, blurred shapes and tubes, and trees that obey
Murray's law.
"""

import numpy as np
import torch

from inrreg.core.grid import Grid
from inrreg.phantoms.anatomy import Thorax
from inrreg.phantoms.phantom_pair import oblique_grid
from inrreg.phantoms.random_field import RandomField
from inrreg.phantoms.raster import PSF_VOXELS, Tubes, coverage, tube_coverage
from inrreg.phantoms.vessels import PulmonaryTrees, grow

GRID = oblique_grid((36, 34, 32), 2.0, (-20.0, 33.0, 110.0), (20.0, -10.0, 15.0))


def tube(start: list[float], end: list[float], radius: float) -> Tubes:
    """One tube about the middle of the grid, ends in mm from there."""
    middle = torch.tensor(GRID.center)
    return Tubes(
        *(middle[None] + torch.tensor([p], dtype=torch.float64) for p in (start, end)),
        torch.tensor([radius], dtype=torch.float64),
    )


def supersampled(inside: torch.Tensor, fine: Grid, coarse: Grid) -> torch.Tensor:
    """A sharp shape on ``fine`` blurred by the scanner of ``coarse``, at the voxel centres of the
    latter: the definition, by brute force.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    blurred = gaussian_filter(
        inside.double().numpy(), PSF_VOXELS * coarse.spacing / fine.spacing, truncate=5
    )
    at = fine.to_voxel(coarse.points(torch.float64)).movedim(-1, 0).numpy()
    return torch.from_numpy(map_coordinates(blurred, at, order=1, mode="nearest"))


class TestCoverage:
    def test_of_a_ball_is_that_of_a_blurred_ball(self) -> None:
        grid = oblique_grid((24, 20, 14), (1.5, 1.8, 3.0), (5.0, -7.0, 60.0), (20.0, -10.0, 15.0))
        fine = grid.covering([h / 6 for h in grid.spacing])
        middle = torch.tensor(grid.center)

        def level(g: Grid) -> torch.Tensor:
            return (g.points(torch.float64) - middle).norm(dim=-1) - 12.0

        error = coverage(level(grid)) - supersampled(level(fine) < 0, fine, grid)
        # a flat edge is assumed, the ball is curved over a slice of 3 mm
        assert float(error.abs().max()) < 0.06

    def test_of_a_sheet_holds_its_volume(self) -> None:
        normal = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64)
        level = (GRID.points(torch.float64) - torch.tensor(GRID.center)) @ normal
        across = coverage(level, thickness=0.7)
        near_axis = (
            (GRID.points(torch.float64) - torch.tensor(GRID.center)) - level[..., None] * normal
        ).norm(dim=-1) < 20
        volume = float(across[near_axis].sum() * GRID.spacing.prod())
        # the rim of the disc is counted by whole voxels
        assert abs(volume / (0.7 * np.pi * 20**2) - 1) < 0.02

    def test_of_thick_and_thin_tubes_holds_their_volume(self) -> None:
        for radius in (0.3, 0.8, 2.0, 6.0):
            pieces = tube([-14.0, -4.0, 3.0], [14.0, 4.0, -3.0], radius).cut(4.0)
            share = tube_coverage(pieces, GRID)
            expected = np.pi * radius**2 * float(pieces.lengths.sum())
            # the table's steps, at the thinnest
            assert abs(float(share.sum() * GRID.spacing.prod()) / expected - 1) < 0.02

    def test_of_tubes_is_at_most_one(self) -> None:
        wide = tube([-14.0, 0.0, 0.0], [14.0, 0.0, 0.0], 6.0).cut(4.0)
        assert float(tube_coverage(Tubes.joined([wide, wide]), GRID).max()) == 1

    def test_of_a_tube_is_that_of_a_blurred_tube(self) -> None:
        fine = GRID.covering(0.4)
        middle, axis = (
            torch.tensor(GRID.center),
            torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64),
        )
        away = fine.points(torch.float64) - middle
        for radius in (0.8, 3.0):
            sharp = torch.linalg.cross(away, axis.expand_as(away)).norm(dim=-1) < radius
            pieces = tube((-60 * axis).tolist(), (60 * axis).tolist(), radius).cut(4.0)
            inner = (slice(4, -4),) * 3
            error = (tube_coverage(pieces, GRID) - supersampled(sharp, fine, GRID))[inner]
            assert float(error.abs().max()) < 0.04  # the sharp tube is made of cubes of 0.4 mm


def test_tubes_keep_their_volume_when_moved() -> None:
    tubes = tube([-10.0, 0.0, 0.0], [10.0, 5.0, 0.0], 2.0).cut(3.0)
    moved = tubes.mapped(lambda p: p * p.new_tensor([0.5, 1.0, 1.0]))
    torch.testing.assert_close(moved.radii**2 * moved.lengths, tubes.radii**2 * tubes.lengths)
    assert bool((moved.radii > tubes.radii).all())


def test_a_random_field_has_unit_variance_and_the_asked_length() -> None:
    rng = np.random.default_rng(0)
    field = RandomField.draw(rng, length_mm=10.0, components=400, waves=400)
    points = torch.tensor([[0.0, 0, 0], [10, 0, 0], [0, -20, 0]], dtype=torch.float64)
    values = field(points)
    covariance = (values @ values.T / values.shape[1])[0]
    expected = torch.exp(-(torch.tensor([0.0, 10, 20], dtype=torch.float64) ** 2) / (2 * 10.0**2))
    # three standard errors: 400 components share 400 waves, 0.06
    torch.testing.assert_close(covariance, expected, atol=0.2, rtol=0)


class TestTrees:
    def test_reach_every_target_and_obey_murray(self) -> None:
        rng = np.random.default_rng(4)
        targets = rng.uniform(-50, 50, (300, 3))
        tree = grow(np.array([60.0, 0.0, 0.0]), targets, 0.4, rng)
        children = np.bincount(tree.parents[1:], minlength=len(tree.nodes))
        leaves = tree.nodes[children == 0]
        assert {tuple(p) for p in leaves} == {tuple(p) for p in targets}
        cubes = np.bincount(
            tree.parents[1:], weights=tree.radii[1:] ** 3, minlength=len(tree.nodes)
        )
        np.testing.assert_allclose(cubes[children > 0], tree.radii[children > 0] ** 3)
        np.testing.assert_allclose(tree.radii[children == 0], 0.4)
        assert len(tree.bifurcations(0.0)) == len(targets) - 1

    def test_fill_both_lungs_with_lookalikes(self) -> None:
        rng = np.random.default_rng(5)
        thorax = Thorax.draw(rng)
        trees = PulmonaryTrees.draw(thorax, rng)
        assert len(trees.vessels.radii) > 5000
        assert float(trees.vessels.radii.min()) < 0.5 < 3.0 < float(trees.vessels.radii.max())
        inside = thorax.lungs((trees.vessels.starts + trees.vessels.ends) / 2) < 0
        assert float(inside.double().mean()) > 0.9
        nearest = torch.cdist(trees.forks, trees.forks).fill_diagonal_(torch.inf).amin(1)
        assert float(nearest.median()) < 8.0, (
            "the next fork is a few mm away: nothing but the motion tells which is which"
        )
