"""Cubic B-splines at loose points: the compiled loops against the taps that can be
differentiated.
"""

import pytest
import torch
from steps import noise
from worlds import oblique

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.dispatch import OPERATIONS, Operation
from inrreg.ops.sampling import spatial_gradient, spline_combination


def lattice(shape: tuple[int, ...], channels: int) -> Image:
    d = len(shape)
    return Image(
        noise(shape, 4, channels),
        Grid.from_spacing(shape, (0.7, 0.9, 2.5)[:d], (3.0, -20.0, 11.0)[:d], oblique(d)),
    )


def points(grid: Grid, n: int = 400) -> torch.Tensor:
    """In the lattice and up to three voxels beyond it, in double precision; the first at a voxel,
    the second at the end of it.
    """
    voxels = (
        torch.rand(n, grid.ndim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        * (torch.tensor(grid.shape) + 5)
        - 3
    )
    voxels[0], voxels[1] = 1.0, torch.tensor(grid.shape, dtype=torch.float64) - 1
    return grid.to_world(voxels)


@pytest.mark.parametrize("shape", [(9, 7, 5), (1, 4, 6), (2, 3, 1), (8, 6), (1, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_and_slopes_are_those_of_the_taps(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    """In single precision a voxel index of 10 is good to 1e-6, a slope per mm of some tenths to
    about ten times that.
    """
    image = lattice(shape, 3)
    data, where = image.data.to(dtype), points(image.grid).to(dtype)
    recorded = where.clone().requires_grad_()  # what may be differentiated goes through taps
    values, expected = (spline_combination(Image(data, image.grid), p) for p in (where, recorded))
    assert expected.requires_grad
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=tolerance)
    slopes, rises = (spatial_gradient(data, image.grid, p, 3) for p in (where, recorded))
    torch.testing.assert_close(slopes, rises.detach(), rtol=0, atol=30 * tolerance)


def test_a_position_that_is_nan_has_no_value() -> None:
    image = lattice((5, 6, 7), 2)
    where = points(image.grid, 5)
    where[3, 1] = torch.nan
    assert spline_combination(image, where).isnan().any(0).tolist() == [
        False,
        False,
        False,
        True,
        False,
    ]


def test_any_arrangement_of_sites_will_do() -> None:
    image = lattice((5, 6, 7), 2)
    where = points(image.grid, 24)
    torch.testing.assert_close(
        spline_combination(image, where.reshape(2, 3, 4, 3)).flatten(1),
        spline_combination(image, where),
        rtol=0,
        atol=0,
    )
    torch.testing.assert_close(
        spatial_gradient(image.data, image.grid, where.reshape(4, 6, 3), 3).flatten(1, 2),
        spatial_gradient(image.data, image.grid, where, 3),
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("name", ["spline_values", "spline_slopes"])
def test_where_a_derivative_is_recorded_torch_serves(name: str) -> None:
    operation: Operation = OPERATIONS[f"inrreg.ops.spline_at_points.{name}"]
    image = lattice((5, 6, 7), 2)
    recorded = points(image.grid, 5).requires_grad_()
    assert operation.form_for([image.data, recorded]) is operation.torch_form
    with torch.no_grad():
        assert operation.form_for([image.data, recorded]) is operation.compiled_form
