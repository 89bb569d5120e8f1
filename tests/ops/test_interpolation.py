"""Interpolation at displaced sites against torch's at points, its slope against automatic
differentiation.
"""

import numpy as np
import pytest
import torch
from steps import noise
from torch import Tensor
from worlds import oblique, oblique_grid

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.interpolation import GridToVoxelMap, interpolated, within
from inrreg.ops.sampling import inside, linear
from inrreg.transforms import Affine


def image_on_another_grid(ndim: int, channels: int = 1) -> Image:
    """Noise on a grid of another place, spacing, orientation and shape than the oblique one, which
    it covers in part.
    """
    grid = Grid.from_spacing(
        (15, 20, 8)[:ndim],
        (1.1, 0.8, 2.2)[:ndim],
        (-30.0, 44.0, 114.0)[:ndim],
        oblique(ndim) @ oblique(ndim),
    )
    return Image(noise(grid.shape, 7, channels), grid)


def start(ndim: int) -> Affine:
    """A turn with a stretch about the middle, and a shift."""
    matrix = torch.tensor(oblique(ndim)) @ torch.diag(
        torch.tensor([1.1, 0.9, 1.05], dtype=torch.float64)[:ndim]
    )
    return Affine.from_matrix(
        matrix, torch.tensor([2.0, -1.0, 1.5])[:ndim], torch.tensor(oblique_grid(ndim).center)
    ).requires_grad_(False)


def placement(grid: Grid, image: Image, counted: Tensor | None = None) -> GridToVoxelMap:
    matrix = start(grid.ndim).homogeneous().numpy()
    return GridToVoxelMap.through(
        grid,
        image.grid,
        matrix[:-1, :-1],
        matrix[:-1, -1],
        (
            torch.ones(grid.shape, dtype=torch.bool, device=image.device)
            if counted is None
            else counted
        ),
    )


def displacement(grid: Grid) -> Tensor:
    """Up to 2 mm, in double precision."""
    return (
        4
        * torch.rand(
            *grid.shape, grid.ndim, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        - 2
    )


def by_points(image: Image, grid: Grid, u: Tensor) -> Tensor:
    return linear(image, start(grid.ndim).to(u.device)(grid.points(torch.float64, u.device) + u))


@pytest.mark.parametrize("channels", [1, 3])
def test_values_and_slopes_are_those_at_the_mapped_points(grid: Grid, channels: int) -> None:
    image = image_on_another_grid(grid.ndim, channels)
    u = displacement(grid).requires_grad_()
    values, expected = (
        interpolated(image.data, u, placement(grid, image)),
        by_points(image, grid, u),
    )
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-9)
    direction = noise(grid.shape, 5, channels)
    held = 1 - inside(image.grid, start(grid.ndim)(grid.points(torch.float64) + u)).mean()
    assert 0.1 < float(held.detach()) < 0.9  # the border is held in many places
    torch.testing.assert_close(
        *(torch.autograd.grad(v, u, direction)[0] for v in (values, expected)), rtol=0, atol=1e-9
    )


def test_gradient_is_right(grid: Grid) -> None:
    small = grid.cropped((5, 4, 3)[: grid.ndim], (9, 7, 5)[: grid.ndim])
    image = image_on_another_grid(grid.ndim, 2)
    assert torch.autograd.gradcheck(
        lambda u: interpolated(image.data, u, placement(small, image)),
        displacement(small).requires_grad_(),
    )


def test_components_may_lie_in_one_piece_or_beside_each_other(grid: Grid) -> None:
    image, u = image_on_another_grid(grid.ndim), displacement(grid)
    apart = u.movedim(-1, 0).contiguous().movedim(0, -1)
    torch.testing.assert_close(
        interpolated(image.data, u, placement(grid, image)),
        interpolated(image.data, apart, placement(grid, image)),
        rtol=0,
        atol=1e-12,
    )


def test_weight_of_what_stays_inside(grid: Grid) -> None:
    image, u = image_on_another_grid(grid.ndim), displacement(grid)
    expected = inside(image.grid, start(grid.ndim)(grid.points(torch.float64) + u))
    assert 0.1 < float(expected.mean()) < 0.9
    assert torch.equal(
        within(torch.ones(grid.shape), u, image.grid.shape, placement(grid, image)), expected
    )


def test_sites_that_do_not_count_change_nothing_at_those_that_do(grid: Grid) -> None:
    image, u = image_on_another_grid(grid.ndim, 2), displacement(grid).requires_grad_()
    counted = noise(grid.shape, 9)[0] > 0.6
    counted[3] = False  # a layer without any
    some, every = placement(grid, image, counted), placement(grid, image)
    values, expected = (interpolated(image.data, u, where) * counted for where in (some, every))
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(v.square().sum(), u)[0] for v in (values, expected)),
        rtol=0,
        atol=1e-12,
    )
    assert torch.equal(
        *(
            within(torch.ones(grid.shape), u, image.grid.shape, where)[counted]
            for where in (some, every)
        )
    )


def test_rows_without_anything_that_counts_are_not_looked_at(grid: Grid) -> None:
    image, u = image_on_another_grid(grid.ndim), displacement(grid)
    u[3] = torch.nan
    counted = torch.ones(grid.shape, dtype=torch.bool)
    counted[3] = False
    assert bool(interpolated(image.data, u, placement(grid, image, counted)).isfinite().all())


def test_voxels_of_the_image_itself_are_found_exactly(grid: Grid) -> None:
    image = Image(noise(grid.shape, 1), grid)
    still = GridToVoxelMap.through(
        grid, grid, np.eye(grid.ndim), np.zeros(grid.ndim), torch.ones(grid.shape, dtype=torch.bool)
    )
    torch.testing.assert_close(
        interpolated(image.data, torch.zeros(*grid.shape, grid.ndim, dtype=torch.float64), still),
        image.data,
        rtol=0,
        atol=1e-5,
    )  # points on the border are held 1e-6 of a voxel or less inside


def test_an_axis_of_one_voxel_is_constant(grid: Grid) -> None:
    flat = Grid.from_spacing((1, *grid.shape[1:]), grid.spacing, grid.origin, grid.direction)
    image = Image(noise(flat.shape, 1), flat)
    u = displacement(grid).requires_grad_()
    values = interpolated(image.data, u, placement(grid, image))
    torch.testing.assert_close(values, by_points(image, grid, u), rtol=0, atol=1e-5)
    along = (
        torch.autograd.grad(values.sum(), u)[0]
        @ torch.tensor(start(grid.ndim).homogeneous().numpy()[:-1, :-1]).inverse()
        @ torch.tensor(flat.direction)
    )
    torch.testing.assert_close(along[..., 0], torch.zeros_like(along[..., 0]), rtol=0, atol=1e-9)


def test_a_displacement_that_is_no_number_gives_none(grid: Grid) -> None:
    image, u = image_on_another_grid(grid.ndim), displacement(grid)
    u[(2, *[1] * (grid.ndim - 1))] = torch.nan
    values = interpolated(image.data, u, placement(grid, image))
    assert int(values.isnan().sum()) == 1
    assert bool(values[(0, 2, *[1] * (grid.ndim - 1))].isnan())
