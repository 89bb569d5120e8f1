"""Compiled products along axes against dense ones in double precision, and their derivatives."""

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import oblique_grid

from inrreg.core.grid import Grid
from inrreg.ops.banded import AxisMatrix, Bands, Separable
from inrreg.ops.banded.compiled import along
from inrreg.ops.separable import basis, gaussian, resampling
from inrreg.transforms.bspline import render_jacobian

EPS = torch.finfo(torch.float32).eps


def spline(m: int, n: int, derivative: int = 0) -> Tensor:
    """A cubic basis of n knots at m positions that begin before the first and end after the last
    knot.
    """
    return torch.from_numpy(
        basis(torch.linspace(-1.3, n + 0.4, m, dtype=torch.float64), n, 3, derivative)
    )


def dense(data: Tensor, matrices: list[Tensor]) -> Tensor:
    return torch.einsum(
        "cab,ia,jb->cij" if len(matrices) == 2 else "cabd,ia,jb,kd->cijk", data, *matrices
    )


@pytest.mark.parametrize(
    "matrix",
    [
        spline(40, 17),
        spline(40, 17, 1),
        torch.from_numpy(gaussian(25, 2.0)),
        spline(5, 1),
        torch.eye(3).double(),
        torch.zeros(4, 6).double(),
    ],
)
def test_bands_hold_the_matrix(matrix: Tensor) -> None:
    bands = Bands.of(matrix.numpy())
    restored = np.zeros(matrix.shape)
    for row, first, weights in zip(restored, bands.first, bands.weights, strict=True):
        row[first : first + len(weights)] = weights
    np.testing.assert_array_equal(restored, matrix.numpy())
    assert bands.weights.shape[1] % 4 == 0 or bands.weights.shape[1] == matrix.shape[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "matrix",
    [
        spline(300, 60),
        spline(100, 70, 1),
        torch.from_numpy(gaussian(90, 1.2)),
        torch.from_numpy(gaussian(50, 0.1)),
    ],
)
def test_an_axis_of_rows_is_added_up_as_the_dense_product(
    matrix: Tensor, dtype: torch.dtype, generator: torch.Generator
) -> None:
    data = torch.rand(2, matrix.shape[1], 7, 5, generator=generator, dtype=torch.float64)
    axis = AxisMatrix(matrix.to(dtype))
    for given, one in (
        (data, axis),
        (
            torch.rand(2, len(matrix), 7, 5, generator=generator, dtype=torch.float64),
            axis.transposed,
        ),
    ):
        assert one.banded
        expected = torch.einsum("cijk,mi->cmjk", given, one.dense.double())
        scale = torch.einsum("cijk,mi->cmjk", given, one.dense.double().abs()).max()
        torch.testing.assert_close(
            along(one, given.to(dtype), 1).double(),
            expected,
            rtol=0,
            atol=float(scale) * 20 * torch.finfo(dtype).eps,
        )


@pytest.mark.parametrize("ndim", [2, 3])
def test_separable_products_and_what_they_leave_out(ndim: int, generator: torch.Generator) -> None:
    """Columns without a weight, at either end, are cut off first."""
    matrices = [
        torch.from_numpy(basis(torch.linspace(8, 22, m, dtype=torch.float64), n))
        for m, n in zip((90, 33, 50)[:ndim], (40, 30, 31)[:ndim], strict=True)
    ]
    data = torch.rand(
        3, *[matrix.shape[1] for matrix in matrices], generator=generator, dtype=torch.float64
    )
    torch.testing.assert_close(Separable(matrices)(data), dense(data, matrices), rtol=0, atol=1e-13)
    single = Separable([matrix.float() for matrix in matrices])(data.float())
    torch.testing.assert_close(single.double(), dense(data, matrices), rtol=0, atol=30 * EPS)


@pytest.mark.parametrize("shape", [(18, 17), (1, 20), (18, 17, 3), (17, 1, 2), (1, 1, 1)])
def test_separable_derivatives(shape: tuple[int, ...], generator: torch.Generator) -> None:
    product = Separable([spline(n + 2, n, int(axis == 0)) for axis, n in enumerate(shape)])
    data = torch.rand(1, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    given = torch.rand(product(data).shape, generator=generator, dtype=torch.float64)
    entry = torch.autograd.grad((product(data) * given).sum(), data)[0]
    data_given = torch.autograd.grad(
        (
            dense(data, [spline(n + 2, n, int(axis == 0)) for axis, n in enumerate(shape)]) * given
        ).sum(),
        data,
    )[0]
    torch.testing.assert_close(entry, data_given, rtol=0, atol=1e-12)
    few = torch.rand(
        1, *[min(n, 3) for n in shape], generator=generator, dtype=torch.float64, requires_grad=True
    )
    small = Separable([spline(4, n) for n in few.shape[1:]])
    assert torch.autograd.gradcheck(small, few, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(small, few)


def by_products(coefficients: Tensor, lattice: Grid, grid: Grid) -> Tensor:
    """I + Du as dense products give it."""
    d = lattice.ndim
    along = [
        dense(
            coefficients,
            [
                torch.as_tensor(m, dtype=coefficients.dtype)
                for m in resampling(grid, lattice, 3, [int(a == axis) for a in range(d)])
            ],
        )
        for axis in range(d)
    ]
    gradient = torch.einsum(
        "ac...,aj->...cj",
        torch.stack(along),
        torch.as_tensor(np.linalg.inv(lattice.direction).copy(), dtype=coefficients.dtype),
    )
    return gradient + torch.eye(d, dtype=coefficients.dtype)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("reach", [0.4, 1.5])
def test_jacobian_in_one_walk_is_the_products(
    ndim: int, reach: float, generator: torch.Generator
) -> None:
    """On part of the lattice, and on a grid that reaches beyond it, where derivatives are rows of
    zeros.
    """
    grid = Grid.from_spacing((30, 12, 17)[:ndim], 2.0, None, oblique_grid(ndim).direction)
    lattice = (
        grid.covering(5.0, margin=2)
        if reach < 1
        else grid.cropped([3] * ndim, [10] * ndim).covering(3.0)
    )
    coefficients = torch.randn(
        ndim, *lattice.shape, generator=generator, dtype=torch.float64, requires_grad=True
    )
    jacobian, expected = (
        render_jacobian(coefficients, lattice, grid),
        by_products(coefficients, lattice, grid),
    )
    torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-12)
    given = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(jacobian, coefficients, given)[0],
        torch.autograd.grad(expected, coefficients, given)[0],
        rtol=0,
        atol=1e-11,
    )
    single = coefficients.detach().float().requires_grad_()
    torch.testing.assert_close(
        render_jacobian(single, lattice, grid).double(), expected, rtol=0, atol=100 * EPS
    )


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2), (1, 3, 4), (4, 3, 1)])
def test_jacobian_derivatives(shape: tuple[int, ...], generator: torch.Generator) -> None:
    d = len(shape)
    lattice = Grid.from_spacing(shape, 3.0, None, oblique_grid(d).direction)
    grid = lattice.cropped([0] * d, [min(n, 2) + 1 for n in shape])
    coefficients = torch.randn(
        d, *shape, generator=generator, dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(
        lambda c: render_jacobian(c, lattice, grid), coefficients, check_forward_ad=True
    )
    assert torch.autograd.gradgradcheck(lambda c: render_jacobian(c, lattice, grid), coefficients)


def test_nan_is_not_hidden(generator: torch.Generator) -> None:
    lattice = Grid.from_spacing((9, 8, 7), 4.0)
    coefficients = torch.randn(3, *lattice.shape, generator=generator)
    coefficients[0, 4, 4, 3] = torch.nan
    assert render_jacobian(coefficients, lattice, lattice)[4, 4, 3].isnan().any()
    assert (
        Separable([spline(20, 9).float(), spline(20, 8).float(), spline(20, 7).float()])(
            coefficients
        )
        .isnan()
        .any()
    )
