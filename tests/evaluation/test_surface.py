"""Surface distances: shapes with closed-form answers, and brute force over all pairs of surface
voxels in world mm.
"""

import json
from itertools import product

import numpy as np
import pytest
from evaluation_cases import GRIDS, oblique, oblique_2d, oblique_3d
from scipy.spatial.distance import cdist

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import LabelImage
from inrreg.evaluation import SurfaceDistance, surface_distances


def measured(fixed, warped, grid):
    """Distances of label 1."""
    return surface_distances(
        LabelImage.from_array(np.asarray(fixed, dtype=np.uint8), grid),
        LabelImage.from_array(np.asarray(warped, dtype=np.uint8), grid),
    ).labels[1]


def box(shape, lower, upper):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))] = True
    return mask


def ball(grid, radius):
    voxels = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    return np.linalg.norm(voxels @ grid.matrix.T + grid.origin - grid.center, axis=-1) <= radius


def surface_points(mask, grid):
    """World positions of the voxels with a face on the background, found voxel by voxel."""
    padded = np.pad(mask, 1)
    steps = [
        np.eye(mask.ndim, dtype=int)[axis] * sign
        for axis, sign in product(range(mask.ndim), (-1, 1))
    ]
    surface = [
        v for v in np.argwhere(mask) if not all(padded[tuple(v + 1 + step)] for step in steps)
    ]
    return np.array(surface) @ grid.matrix.T + grid.origin


@pytest.mark.parametrize("grid", GRIDS, ids=["2-D", "3-D"])
def test_sheets_some_voxels_apart(grid):
    for axis, steps in product(range(grid.ndim), (0, 1, 3)):
        near, far = ([slice(None)] * grid.ndim for _ in range(2))
        near[axis], far[axis] = 2, 2 + steps
        a, b = np.zeros(grid.shape), np.zeros(grid.shape)
        a[tuple(near)] = b[tuple(far)] = 1
        result = measured(a, b, grid)
        assert result.hausdorff95_mm == pytest.approx(steps * grid.spacing[axis])
        assert result.mean_mm == pytest.approx(steps * grid.spacing[axis])


def test_a_rectangle_moved_by_one_voxel():
    # 11 x 7 voxels of 2 x 3 mm moved by 1 along the first axis. Of the 32 outline voxels of the
    # first, the 7 of its trailing edge lie
    # 2 mm before the second; of its leading edge the 5 inner ones lie 2 mm behind the leading edge
    # of the second, the 2 corners on its sides.
    # All others lie on the sides of the second. The same holds the other way round.
    grid = oblique((20, 20), (2.0, 3.0), (-30.0, 45.0))
    result = measured(box(grid.shape, (3, 4), (14, 11)), box(grid.shape, (4, 4), (15, 11)), grid)
    assert result.mean_mm == pytest.approx(12 * 2 / 32)
    assert result.hausdorff95_mm == pytest.approx(2)


def test_concentric_balls_differ_by_their_radii():
    grid = oblique((60, 60, 60), (0.5, 0.4, 0.6), (-30.0, 45.0, 120.0))
    result = measured(ball(grid, 6.0), ball(grid, 9.0), grid)
    # each surface voxel lies within one voxel diagonal inside its sphere
    diagonal = np.linalg.norm(grid.spacing)
    # the two offsets inward nearly cancel in the mean
    assert result.mean_mm == pytest.approx(3.0, abs=diagonal / 4)
    assert result.hausdorff95_mm == pytest.approx(3.0, abs=diagonal)


@pytest.mark.parametrize("grid", GRIDS, ids=["2-D", "3-D"])
def test_equals_brute_force_in_world_mm(grid):
    generator = np.random.default_rng(0)
    a, b = (generator.random(grid.shape) < share for share in (0.7, 0.8))
    b[:3] = False
    distances = cdist(surface_points(a, grid), surface_points(b, grid))
    there, back = distances.min(1), distances.min(0)
    # so that one direction alone would not do
    assert np.percentile(there, 95) > np.percentile(back, 95)
    expected = SurfaceDistance(
        max(np.percentile(there, 95), np.percentile(back, 95)), np.concatenate([there, back]).mean()
    )
    for result in (measured(a, b, grid), measured(b, a, grid)):
        assert result.hausdorff95_mm == pytest.approx(expected.hausdorff95_mm)
        assert result.mean_mm == pytest.approx(expected.mean_mm)


def test_a_lost_label_is_counted_and_left_out_of_the_means():
    grid = oblique_3d()
    fixed, warped = np.zeros(grid.shape, int), np.zeros(grid.shape, int)
    fixed[2], fixed[6], warped[3], warped[8] = 1, 4, 1, 9
    result = surface_distances(
        LabelImage.from_array(fixed, grid), LabelImage.from_array(warped, grid)
    )
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (written["n_labels"], written["n_missing"]) == (2, 1)
    assert (
        written["mean_hausdorff95_mm"]
        == written["label_1_hausdorff95_mm"]
        == pytest.approx(grid.spacing[0])
    )
    assert written["mean_surface_distance_mm"] == pytest.approx(grid.spacing[0])
    assert written["label_4_hausdorff95_mm"] is None
    nothing = surface_distances(
        LabelImage.from_array(fixed, grid), LabelImage.from_array(0 * warped, grid)
    ).to_json()
    assert nothing["n_missing"] == 2
    assert nothing["mean_hausdorff95_mm"] is None


def test_refuses_what_it_cannot_measure():
    grid = oblique_3d()
    ones, zeros = (LabelImage.from_array(np.full(grid.shape, v), grid, "organs") for v in (1, 0))
    with pytest.raises(InputError, match="organs holds no label"):
        surface_distances(zeros, ones)
    with pytest.raises(FrameError, match="organs lies on"):
        surface_distances(LabelImage.from_array(np.ones(oblique_2d().shape), oblique_2d()), ones)
    skewed = Grid(
        grid.shape, np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    )
    with pytest.raises(FrameError, match="skewed"):
        surface_distances(
            LabelImage.from_array(np.ones(grid.shape), skewed),
            LabelImage.from_array(np.ones(grid.shape), skewed),
        )
