"""Inverses: the other direction, asked for by name, with its residual in mm."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import fsolve
from torch import Tensor
from worlds import TRANSFORMS, between_voxels, oblique_grid

from inrreg.core.errors import InversionError
from inrreg.core.grid import Grid
from inrreg.transforms import (
    Affine,
    BSpline,
    Composite,
    DenseDisplacement,
    Linear,
    NumericInverse,
    Rigid,
    Transform,
)

INVERTIBLE = [name for name in TRANSFORMS if name != "inverse"]
CLOSED_FORM = ["translation", "rigid", "affine"]


@pytest.fixture(params=INVERTIBLE)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def transform(name: str, grid: Grid, generator: torch.Generator) -> Transform:
    return TRANSFORMS[name](grid, generator)


@pytest.fixture
def points(grid: Grid, generator: torch.Generator) -> Tensor:
    return between_voxels(grid, 40, generator)


def hump(grid: Grid, height_mm: float) -> DenseDisplacement:
    """A Gaussian push along x of 3 mm sigma at the centre: it folds above 3 sqrt(e) = 4.95 mm, in
    theory as on the lattice.
    """
    x = grid.points(torch.float64) - torch.tensor(grid.center)
    u = torch.zeros_like(x)
    u[..., 0] = height_mm * torch.exp(-0.5 * x.square().sum(-1) / 9.0)
    return DenseDisplacement(u, grid, "cubic")


def test_composed_with_its_inverse_it_is_the_identity(transform: Transform, points: Tensor) -> None:
    inverse = transform.inverse(tolerance_mm=0.05)
    torch.testing.assert_close(transform(inverse(points)), points, rtol=0, atol=0.05)
    # Newton stops a fiftieth below the tolerance; the other way round the error grows by the
    # stretch, below 2 here
    torch.testing.assert_close(inverse(transform(points)), points, rtol=0, atol=0.002)
    torch.testing.assert_close(Composite([transform, inverse])(points), points, rtol=0, atol=0.002)


@settings(max_examples=15)
@given(
    kind=st.sampled_from(INVERTIBLE),
    seed=st.integers(0, 1000),
    ndim=st.sampled_from([2, 3]),
    exponent=st.integers(1, 6),
)
def test_the_residual_keeps_the_tolerance(kind: str, seed: int, ndim: int, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid, tolerance = oblique_grid(ndim), 10.0**-exponent
    transform = TRANSFORMS[kind](grid, generator)
    y = between_voxels(grid, 10, generator)
    inverse = NumericInverse(transform, tolerance)
    residual = inverse.residual(y)
    torch.testing.assert_close(
        residual, (transform(inverse(y)) - y).norm(dim=-1), rtol=0, atol=1e-12
    )
    assert residual.max() <= tolerance


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_linear_inverses_are_the_inverse_matrix(transform: Linear, points: Tensor) -> None:
    inverse = transform.inverse()
    assert isinstance(inverse, Affine)
    np.testing.assert_allclose(
        inverse.homogeneous(), np.linalg.inv(transform.homogeneous().numpy()), atol=1e-9
    )
    torch.testing.assert_close(
        NumericInverse(transform, 1e-9)(points), inverse(points), rtol=0, atol=1e-9
    )


def test_a_chain_of_linear_transforms_has_a_closed_form(
    grid: Grid, points: Tensor, generator: torch.Generator
) -> None:
    chain = Composite([TRANSFORMS[name](grid, generator) for name in CLOSED_FORM])
    inverse = chain.inverse()
    assert isinstance(inverse, Composite)
    assert all(isinstance(stage, Affine) for stage in inverse.chain)
    torch.testing.assert_close(inverse(chain(points)), points, rtol=0, atol=1e-9)


def test_any_other_chain_is_inverted_as_a_whole(grid: Grid, generator: torch.Generator) -> None:
    chain = TRANSFORMS["composite"](grid, generator)
    inverse = chain.inverse(0.01)
    assert isinstance(inverse, NumericInverse)
    assert inverse.original is chain
    assert inverse.inverse() is chain


def test_scipy_solves_to_the_same_points(
    grid: Grid, points: Tensor, generator: torch.Generator
) -> None:
    transform = TRANSFORMS["bspline"](grid, generator)
    found = NumericInverse(transform, 1e-6)(points[:5]).detach().numpy()
    expected = [
        fsolve(lambda x, y=y: transform(torch.tensor(x)).detach().numpy() - y, y, xtol=1e-10)
        for y in points[:5].numpy()
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["bspline", "cubic field", "neural", "composite"])
def test_its_jacobian_is_the_inverse_matrix(transform: Transform, points: Tensor) -> None:
    inverse = NumericInverse(transform, 1e-8)
    product = transform.jacobian(inverse(points)) @ inverse.jacobian(points)
    torch.testing.assert_close(
        product,
        torch.eye(transform.ndim, dtype=torch.float64).expand_as(product),
        rtol=0,
        atol=1e-9,
    )


def test_rotations_by_nearly_half_a_turn_are_no_obstacle(grid: Grid, points: Tensor) -> None:
    """Fixed-point iteration x <- y - u(x) diverges here; Newton's method does not."""
    rigid = Rigid(grid.center, radius=1.0)
    rigid.rotation_vector.data[-1] = 3.0
    torch.testing.assert_close(
        NumericInverse(rigid, 1e-6)(points), rigid.inverse()(points), rtol=0, atol=1e-6
    )


def test_single_precision_and_shapes(
    grid: Grid, points: Tensor, generator: torch.Generator, device: torch.device
) -> None:
    inverse = TRANSFORMS["bspline"](grid, generator).float().to(device).inverse()
    batch = points.float().reshape(2, 20, -1).to(device)
    assert inverse(batch).dtype == torch.float32
    torch.testing.assert_close(inverse.original(inverse(batch)), batch, rtol=0, atol=0.05)
    assert inverse.residual(batch).shape == (2, 20)
    assert inverse(batch[:0]).shape == (0, 20, grid.ndim)
    torch.testing.assert_close(inverse(batch[0, 0]), inverse(batch)[0, 0], rtol=0, atol=1e-5)


def test_strong_pushes_that_do_not_fold_are_inverted(grid: Grid) -> None:
    inverse = hump(grid, 4.0).inverse()
    assert inverse.residual(grid.points(torch.float64)).max() < 0.05


def test_a_fold_still_has_a_solution_at_every_point_it_reaches(grid: Grid) -> None:
    """Folded space is reached more than once: any of its points will do, and the residual says
    so.
    """
    folded = hump(grid, 6.0)
    assert torch.linalg.det(folded.jacobian(grid.points(torch.float64))).min() < 0
    reached = folded(grid.points(torch.float64)).reshape(-1, grid.ndim).detach()
    residual = NumericInverse(folded).residual(reached)
    assert (residual < 0.05).double().mean() > 0.95


def test_what_is_not_reached_raises_and_says_where(grid: Grid) -> None:
    # all x become that of the centre
    squeezed = Affine.from_matrix(
        np.diag([0.0] + [1.0] * (grid.ndim - 1)), np.zeros(grid.ndim), grid.center
    )
    y = torch.tensor(grid.center) + torch.tensor(
        [[3.0] * grid.ndim, [0.0] + [2.0] * (grid.ndim - 1)], dtype=torch.float64
    )
    where = ", ".join(f"{v:.1f}" for v in y[0].tolist())
    with pytest.raises(
        InversionError,
        match=(
            r"1 of 2 points could not be inverted to 0.05 mm; the worst, .* mm, is moving point"
            rf" \[{where}\] RAS: the transform folds or does not reach it"
        ),
    ):
        NumericInverse(squeezed)(y)
    solution, residual = NumericInverse(squeezed).solve(y)  # the same without raising
    torch.testing.assert_close((squeezed(solution) - y).norm(dim=-1), residual)
    assert (residual > 0.05).tolist() == [True, False]


def test_a_field_that_is_no_number_raises(grid: Grid, points: Tensor) -> None:
    spline = BSpline.over(grid, 6.0)
    spline.coefficients.data.fill_(float("nan"))
    with pytest.raises(InversionError, match="40 of 40 points"):
        spline.inverse()(points)


def test_singular_matrices_raise(grid: Grid) -> None:
    d = grid.ndim
    flat = Affine.from_matrix(np.diag([0.0] + [1.0] * (d - 1)), np.zeros(d), grid.center)
    with pytest.raises(InversionError, match=r"determinant 0.0e\+00 has no inverse"):
        flat.inverse()


def test_the_original_is_neither_moved_nor_trained(
    grid: Grid, points: Tensor, generator: torch.Generator
) -> None:
    transform = TRANSFORMS["bspline"](grid, generator)
    before, given_points = transform.coefficients.detach().clone(), points.clone()
    found = transform.inverse()(points)
    assert not found.requires_grad
    torch.testing.assert_close(transform.coefficients.detach(), before, rtol=0, atol=0)
    torch.testing.assert_close(points, given_points, rtol=0, atol=0)
