"""Jacobian determinants: closed forms on oblique grids, SimpleITK where it can be believed, and
statistics worked out by hand.
"""

import json

import numpy as np
import pytest
import SimpleITK
import torch
from evaluation_cases import GRIDS, affine_about, oblique_2d, oblique_3d, quadratic_about

import inrreg.evaluation.jacobian as module
from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.evaluation import (
    jacobian_determinant,
    jacobian_determinant_of_field,
    jacobian_statistics,
)
from inrreg.ops.small_matrices import determinant
from inrreg.transforms import BSpline, Composite, Neural, Render, bspline

both_dimensions = pytest.mark.parametrize("grid", GRIDS, ids=["2-D", "3-D"])


def inner(array):
    """Without the outermost voxels."""
    return array[(slice(1, -1),) * array.ndim]


def mask_on(grid, array):
    return Image(
        torch.as_tensor(np.asarray(array), dtype=torch.float32).reshape(1, *grid.shape),
        grid,
        "body",
    )


@both_dimensions
def test_affine_by_both_schemes_everywhere(grid):
    for seed in range(3):
        transform = affine_about(grid, seed, strength=0.4)
        expected = torch.full(grid.shape, float(torch.linalg.det(transform.matrix().detach())))
        torch.testing.assert_close(
            jacobian_determinant(transform, grid), expected, rtol=1e-5, atol=1e-6
        )
        field = transform.displacement(grid.points(torch.float64))
        # one-sided differences are exact for affine maps too, so the border counts
        torch.testing.assert_close(
            jacobian_determinant_of_field(field, grid), expected.double(), rtol=1e-6, atol=1e-9
        )


def test_a_reflection_folds_everywhere():
    grid = oblique_3d()
    transform = affine_about(grid, strength=0.0)
    transform.gradient.data[1, 1] -= 2.0
    det = jacobian_determinant(transform, grid)
    torch.testing.assert_close(det, torch.full(grid.shape, -1.0))
    assert jacobian_statistics(det).folded_percent == 100


@both_dimensions
def test_quadratic_field_in_closed_form(grid):
    transform = quadratic_about(grid)
    points = grid.points(torch.float64)
    expected = torch.linalg.det(transform.exact_jacobian(points))
    assert expected.std() > 0.03  # it varies
    # single precision positions
    torch.testing.assert_close(
        jacobian_determinant(transform, grid).double(), expected, rtol=1e-4, atol=1e-4
    )
    by_differences = jacobian_determinant_of_field(transform.displacement(points), grid)
    # central differences of a quadratic are exact
    torch.testing.assert_close(inner(by_differences), inner(expected))
    # one-sided ones at the border are not
    assert not torch.allclose(by_differences, expected, atol=1e-3)


def test_differences_converge_to_the_analytic_determinant_at_second_order():
    coarse = oblique_3d()
    transform = BSpline.over(coarse, 6.0).double()
    transform.coefficients.data.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    errors = []
    for spacing in (0.2, 0.1):
        grid = Grid.from_spacing(
            (9, 9, 9),
            spacing,
            coarse.center - coarse.direction @ np.full(3, 4 * spacing),
            coarse.direction,
        )
        points = grid.points(torch.float64)
        by_differences = jacobian_determinant_of_field(
            transform.displacement(points).detach(), grid
        )
        errors.append(
            float(
                (by_differences - determinant(transform.jacobian(points)).detach())[4, 4, 4].abs()
            )
        )
    assert 3.0 < errors[0] / errors[1] < 5.0  # half the step, a quarter of the error


def test_analytic_determinant_of_networks_and_chains():
    grid = oblique_3d()
    generator = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    neural = Neural(network, Cube.around(grid), 3.0)
    fine = Grid.from_spacing((9, 9, 9), 0.3, grid.center, grid.direction)
    for transform in (
        neural,
        Render.over(neural, grid, 3.0),
        Composite([affine_about(grid, strength=0.1), neural]),
    ):
        det = jacobian_determinant(transform, fine)
        assert not det.requires_grad
        by_differences = inner(
            jacobian_determinant_of_field(transform.displacement_on(fine).detach(), fine)
        )
        # 0.3 mm steps of a field that bends over 15 mm, single precision
        torch.testing.assert_close(inner(det), by_differences, rtol=0, atol=1e-3)
        assert (inner(det) - 1).abs().mean() > 0.01


@pytest.mark.parametrize("shape", [(10, 9), (9, 8, 7)], ids=["2-D", "3-D"])
def test_equals_simpleitk_on_identity_directions(shape):
    grid = Grid.from_spacing(
        shape, (1.5, 0.8, 2.5)[: len(shape)], origin=(-30.0, 45.0, 120.0)[: len(shape)]
    )
    u = torch.randn(
        *shape, len(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    # the determinant does not see LPS, if both points and vectors are read so
    field = SimpleITK.GetImageFromArray(
        u.transpose(0, len(shape) - 1).contiguous().numpy(), isVector=True
    )
    field.SetSpacing(grid.spacing.tolist())
    expected = SimpleITK.GetArrayFromImage(SimpleITK.DisplacementFieldJacobianDeterminant(field)).T
    det = jacobian_determinant_of_field(u, grid)
    # its border rule is another one; it answers in single precision
    np.testing.assert_allclose(inner(det.numpy()), inner(expected), atol=1e-5)


def test_slabs_change_nothing(monkeypatch):
    grid = oblique_3d()
    transform = BSpline.over(grid, 6.0)
    transform.coefficients.data.normal_(0, 1.0, generator=torch.Generator().manual_seed(0))
    field = transform.displacement_on(grid).detach()
    analytic, by_differences = (
        jacobian_determinant(transform, grid),
        jacobian_determinant_of_field(field, grid),
    )
    for voxels in (1, 200):  # slabs of one and of two slices
        monkeypatch.setattr(module, "SLAB", voxels)
        # world positions are rounded otherwise
        torch.testing.assert_close(
            jacobian_determinant(transform, grid), analytic, atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            jacobian_determinant_of_field(field, grid), by_differences, atol=0, rtol=0
        )


def test_an_axis_of_one_voxel_does_not_change_volume():
    flat = Grid.from_spacing((6, 5, 1), (1.0, 2.0, 3.0))
    u = torch.zeros(6, 5, 1, 3)
    u[..., 0] = 0.5 * flat.points()[..., 0]
    torch.testing.assert_close(jacobian_determinant_of_field(u, flat), torch.full(flat.shape, 1.5))


def test_statistics_by_hand():
    grid = Grid.from_spacing((3, 2), 1.0)
    det = torch.tensor([[-1.0, 0.0], [1.0, float(np.e)], [2.0, 99.0]])
    result = jacobian_statistics(det, mask_on(grid, [[1, 1], [1, 1], [0, 0]]))
    # zero is a fold
    assert (result.n_voxels, result.n_folded, result.folded_percent) == (4, 2, 50.0)
    assert (result.min, result.max) == (-1, pytest.approx(np.e))
    assert result.median == pytest.approx(0.5)
    assert result.mean == pytest.approx(np.e / 4)
    assert result.p1 == pytest.approx(-0.97)
    assert result.p95 == pytest.approx(1 + 0.85 * (np.e - 1))
    assert result.sd_log == pytest.approx(0.5)  # of 0 and 1; the folds are left out
    assert jacobian_statistics(det).max == 99
    json.dumps(result.to_json(), allow_nan=False)


def test_no_logarithm_is_left_where_all_is_folded():
    result = jacobian_statistics(torch.tensor([[-1.0, 0.0]]))
    assert result.sd_log is None
    assert result.folded_percent == 100


def test_equals_the_formulas_of_an_independent_scorer():
    grid = oblique_3d()
    u = 0.5 * torch.randn(
        *grid.shape, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    inside = np.zeros(grid.shape, bool)
    inside[1:-1, 1:-1, 1:-1] = np.random.default_rng(0).random((10, 8, 7)) < 0.7
    along_index = np.stack(
        [np.gradient(u.numpy(), h, axis=axis) for axis, h in enumerate(grid.spacing)], -1
    )
    det = np.linalg.det(np.eye(3) + along_index @ grid.direction.T)[inside]
    result = jacobian_statistics(jacobian_determinant_of_field(u, grid), mask_on(grid, inside))
    assert 0 < result.folded_percent == pytest.approx(100 * (det <= 0).mean())
    assert result.min == pytest.approx(det.min())
    assert result.sd_log == pytest.approx(np.log(det[det > 0]).std())


def test_refuses_what_it_cannot_judge():
    grid = oblique_2d()
    det = torch.ones(grid.shape)
    with pytest.raises(InputError, match="body selects no voxel"):
        jacobian_statistics(det, mask_on(grid, np.zeros(grid.shape)))
    with pytest.raises(FrameError, match="body lies on"):
        jacobian_statistics(det[1:], mask_on(grid, det))
    with pytest.raises(InputError, match="not finite at 1 of"):
        jacobian_statistics(
            det.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(torch.nan))
        )
    with pytest.raises(FrameError, match="displacement field on"):
        jacobian_determinant_of_field(torch.zeros(3, 3, 2), grid)


def test_a_second_determinant_computes_no_new_spline_matrices() -> None:
    """Its slabs are new grids of the same content."""
    grid = oblique_3d()
    transform = BSpline.over(grid, 6.0)
    first = jacobian_determinant(transform, grid)
    misses = bspline._basis.cache_info().misses
    assert torch.equal(jacobian_determinant(transform, Grid(grid.shape, grid.affine)), first)
    assert bspline._basis.cache_info().misses == misses
