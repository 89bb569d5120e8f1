"""Grids: voxel <-> world, lattices made from grids, and the unit cube."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from worlds import grids, oblique, oblique_grid, signed_permutations

from inrreg.core.errors import FrameError, InputError, RegistrationError
from inrreg.core.grid import Cube, Grid

ORIENTATIONS = {3: signed_permutations(3), 2: signed_permutations(2)}


def index_points(grid: Grid, margin: float = 2.0) -> torch.Tensor:
    """Continuous voxel indices in and around a grid, off the lattice."""
    generator = torch.Generator().manual_seed(1)
    upper = torch.tensor(grid.shape, dtype=torch.float64) - 1 + 2 * margin
    return torch.rand(20, grid.ndim, generator=generator, dtype=torch.float64) * upper - margin


@pytest.mark.parametrize("tilt", ["straight", "oblique"])
@pytest.mark.parametrize("ndim", [3, 2])
def test_voxel_to_world_is_the_affine_in_all_orientations(ndim: int, tilt: str) -> None:
    assert len(ORIENTATIONS[ndim]) == {3: 48, 2: 8}[ndim]
    turn = oblique(ndim) if tilt == "oblique" else np.eye(ndim)
    for axes in ORIENTATIONS[ndim]:
        grid = Grid.from_spacing(
            (7, 5, 4)[:ndim], (0.7, 0.9, 2.5)[:ndim], (-31.0, 47.0, 1120.0)[:ndim], turn @ axes
        )
        voxels = index_points(grid)
        world = grid.to_world(voxels)
        np.testing.assert_allclose(
            world, nib.affines.apply_affine(grid.affine, voxels.numpy()), rtol=0, atol=1e-10
        )
        torch.testing.assert_close(grid.to_voxel(world), voxels, rtol=0, atol=1e-10)


@given(grid=grids(), data=st.data())
def test_round_trips(grid: Grid, data: st.DataObject) -> None:
    voxels = torch.tensor(
        data.draw(st.lists(st.tuples(*[st.floats(-50, 50)] * grid.ndim), min_size=1, max_size=4)),
        dtype=torch.float64,
    )
    # 1e-9 voxels: origins of 1.5 m have 2e-13 mm between neighbouring doubles, voxels 0.3 mm
    torch.testing.assert_close(grid.to_voxel(grid.to_world(voxels)), voxels, rtol=0, atol=1e-9)
    points = grid.to_world(voxels)
    torch.testing.assert_close(grid.to_world(grid.to_voxel(points)), points, rtol=0, atol=1e-9)


@given(grid=grids())
def test_a_batch_of_points_is_each_point(grid: Grid) -> None:
    voxels = index_points(grid)
    looped = torch.stack([grid.to_world(v) for v in voxels])
    torch.testing.assert_close(
        grid.to_world(voxels.reshape(4, 5, grid.ndim)).reshape(looped.shape),
        looped,
        rtol=0,
        atol=1e-12,
    )


@given(grid=grids(ndims=(3,)))
def test_simpleitk_places_voxels_alike(grid: Grid) -> None:
    flip = np.diag([-1.0, -1.0, 1.0])
    other = SimpleITK.Image(list(grid.shape), SimpleITK.sitkUInt8)
    other.SetOrigin((flip @ grid.origin).tolist())
    other.SetSpacing(grid.spacing.tolist())
    other.SetDirection((flip @ grid.direction).ravel().tolist())
    for voxel in index_points(grid)[:5]:
        point = flip @ np.array(other.TransformContinuousIndexToPhysicalPoint(voxel.tolist()))
        np.testing.assert_allclose(grid.to_world(voxel), point, rtol=0, atol=1e-9)


@given(grid=grids())
def test_points_are_the_voxel_centres_in_index_order(grid: Grid) -> None:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    np.testing.assert_allclose(
        grid.points(torch.float64), nib.affines.apply_affine(grid.affine, index), rtol=0, atol=1e-9
    )


def test_points_on_a_device(grid: Grid, device: torch.device) -> None:
    points = grid.points(device=device)
    assert points.device.type == device.type
    assert points.dtype == torch.float32
    assert points.shape == (*grid.shape, grid.ndim)


def test_properties_read_the_affine() -> None:
    direction = oblique(3) @ ORIENTATIONS[3][17]
    grid = Grid.from_spacing((4, 6, 8), (0.7, 0.9, 2.5), (10.0, -20.0, 30.0), direction)
    np.testing.assert_allclose(grid.spacing, nib.affines.voxel_sizes(grid.affine), rtol=1e-12)
    np.testing.assert_allclose(grid.direction, direction, atol=1e-12)
    np.testing.assert_allclose(grid.origin, [10, -20, 30])
    np.testing.assert_allclose(grid.extent, [2.8, 5.4, 20.0])
    np.testing.assert_allclose(
        grid.center, grid.points(torch.float64).reshape(-1, 3).mean(0), atol=1e-10
    )
    assert grid.n_voxels == 192
    assert grid.ndim == 3


def test_default_grid_has_voxel_0_at_the_world_origin() -> None:
    np.testing.assert_array_equal(Grid.from_spacing((3, 4), 2.0).affine, np.diag([2.0, 2.0, 1.0]))


def test_a_grid_keeps_its_own_copy_of_the_affine() -> None:
    affine = np.eye(4)
    grid = Grid((3, 3, 3), affine)
    affine[0, 3] = 5.0
    assert grid.origin[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 5.0


def test_single_precision_far_from_the_world_origin(device: torch.device) -> None:
    grid = Grid.from_spacing((50, 50, 50), (0.7, 0.9, 2.5), (1000.0, -1000.0, 1000.0), oblique(3))
    voxels = index_points(grid)
    back = grid.to_voxel(grid.to_world(voxels.float().to(device))).double().cpu()
    # floats near 1000 mm are 6e-5 mm apart, near 1100 mm 1.2e-4: two roundings, seen in voxels of
    # 0.7 mm
    torch.testing.assert_close(back, voxels, rtol=0, atol=4e-4)


@given(grid=grids(), spacing=st.floats(0.2, 12.0))
def test_resampled_keeps_centre_and_axes(grid: Grid, spacing: float) -> None:
    coarse = grid.resampled(spacing)
    np.testing.assert_allclose(coarse.center, grid.center, atol=1e-8)
    np.testing.assert_allclose(coarse.spacing, np.maximum(grid.spacing, spacing), rtol=1e-9)
    assert coarse.aligned_with(grid)
    # rounding the number of voxels moves each face by at most a quarter voxel, unless one voxel is
    # all that is left
    assert all(
        abs(new - old) <= 0.5 * h + 1e-6 or n == 1
        for new, old, h, n in zip(
            coarse.extent, grid.extent, coarse.spacing, coarse.shape, strict=True
        )
    )


@given(grid=grids(), spacing=st.floats(0.2, 12.0), margin=st.integers(0, 3))
def test_covering_reaches_past_every_voxel_and_not_further(
    grid: Grid, spacing: float, margin: int
) -> None:
    lattice = grid.covering(spacing, margin)
    np.testing.assert_allclose(lattice.center, grid.center, atol=1e-8)
    np.testing.assert_allclose(lattice.spacing, spacing, rtol=1e-9)
    voxels = lattice.to_voxel(grid.points(torch.float64)).reshape(-1, grid.ndim)
    slack = voxels.amin(0) - margin
    torch.testing.assert_close(
        torch.tensor(lattice.shape) - 1 - margin - voxels.amax(0), slack, rtol=0, atol=1e-5
    )
    assert (slack > -1e-5).all()
    assert (slack < 0.5 + 1e-5).all()


def test_cropped_voxels_stay_where_they_are(grid: Grid) -> None:
    lower, upper = [3, -2, 1][: grid.ndim], [9, 30, 5][: grid.ndim]
    crop = grid.cropped(lower, upper)
    assert crop.shape == tuple(u - lo for lo, u in zip(lower, upper, strict=True))
    voxels = index_points(crop)
    torch.testing.assert_close(
        crop.to_world(voxels), grid.to_world(voxels + torch.tensor(lower)), rtol=0, atol=1e-10
    )


def test_same_as_measures_millimetres(grid: Grid) -> None:
    def moved(by: float) -> Grid:
        return Grid.from_spacing(grid.shape, grid.spacing, grid.origin + by, grid.direction)

    assert grid.same_as(moved(1e-4))
    assert not grid.same_as(moved(1e-2))
    assert grid.same_as(moved(1e-2), tolerance=0.1)
    assert not grid.same_as(
        Grid.from_spacing(grid.shape, grid.spacing * 1.01, grid.origin, grid.direction)
    )
    assert not grid.same_as(grid.cropped([0] * grid.ndim, [n - 1 for n in grid.shape]))


def test_aligned_with_compares_axes_not_places(grid: Grid) -> None:
    assert grid.aligned_with(grid.resampled(4.0))
    assert not grid.aligned_with(Grid.from_spacing(grid.shape, grid.spacing, grid.origin))
    assert not grid.aligned_with(
        Grid.from_spacing(grid.shape, grid.spacing, grid.origin, -grid.direction)
    )


def test_aligned_with_tells_dimensions_apart(grid_2d: Grid, grid_3d: Grid) -> None:
    assert not grid_2d.aligned_with(grid_3d)


@given(grid=grids())
def test_json_round_trip_is_exact(grid: Grid) -> None:
    back = Grid.from_json(json.loads(json.dumps(grid.to_json())))
    assert back.shape == grid.shape
    np.testing.assert_array_equal(back.affine, grid.affine)


def test_repr_names_size_spacing_and_frame(grid_3d: Grid) -> None:
    assert repr(grid_3d).startswith("Grid(17 x 14 x 9 voxels of 0.7 x 0.9 x 2.5 mm, centre [")
    assert repr(grid_3d).endswith("RAS)")


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((4,), np.eye(2), "2 or 3 axes"),
        ((4, 4, 4, 4), np.eye(5), "2 or 3 axes"),
        ((4, 0, 4), np.eye(4), "at least one voxel"),
        ((4, 4, 4), np.eye(3), "4 x 4 voxel-to-world affine"),
        ((4, 4, 4), np.diag([1.0, np.nan, 1.0, 1.0]), "finite"),
        ((4, 4, 4), np.diag([1.0, 0.0, 1.0, 1.0]), "singular.*repair the image header"),
        ((4, 4), np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), "singular"),
        ((4, 4), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [7.0, 8.0, 1.0]]), "last row"),
    ],
)
def test_what_is_no_grid_is_refused(
    shape: tuple[int, ...], affine: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(FrameError, match=message):
        Grid(shape, affine)


def test_errors_are_one_family() -> None:
    assert issubclass(FrameError, InputError)
    assert issubclass(InputError, RegistrationError)
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("method", ["to_world", "to_voxel"])
def test_coordinates_of_another_dimension_are_refused(grid_3d: Grid, method: str) -> None:
    for wrong in (torch.zeros(5, 2), torch.zeros(5, 1), torch.zeros(5, 4)):
        with pytest.raises(FrameError, match=r"last axis of 3, got torch.float32 of shape \(5, "):
            getattr(grid_3d, method)(wrong)


def test_cube_is_the_smallest_that_holds_the_box_with_one_scale(grid: Grid) -> None:
    cube = Cube.around(grid)
    corners = np.stack(
        np.meshgrid(*[(-0.5, n - 0.5) for n in grid.shape], indexing="ij"), -1
    ).reshape(-1, grid.ndim)
    unit = cube.to_unit(grid.to_world(torch.tensor(corners)))
    assert unit.abs().max() == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(
        cube.to_unit(torch.tensor(grid.center)),
        torch.zeros(grid.ndim, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )
    points = grid.to_world(index_points(grid))
    distance = (points - points.flip(0)).norm(dim=-1)
    torch.testing.assert_close(
        (cube.to_unit(points) - cube.to_unit(points).flip(0)).norm(dim=-1) * cube.half_width,
        distance,
    )


def test_oblique_grid_is_what_its_name_says() -> None:
    for ndim in (2, 3):
        grid = oblique_grid(ndim)
        assert len(set(np.round(grid.spacing, 6))) == ndim
        assert np.abs(grid.direction).max() < 0.99
        assert np.abs(grid.center).min() > 5
