"""Landmark errors and distance statistics: numbers worked out by hand, and the formulas that
challenges use.
"""

import json

import numpy as np
import pytest
import torch
from evaluation_cases import affine_about, oblique_3d

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Points
from inrreg.evaluation import distance_statistics, landmark_distances, landmark_error
from inrreg.transforms import Translation

# four fixed points and the moving points that lie (3, 4, 0) = 5, 0, 2.5 and 1 mm away
FIXED = np.array([[10.0, -20.0, 30.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0], [-7.0, 8.0, 9.0]])
OFFSETS = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.5, 2.0], [0.0, 0.0, -1.0]])
LABELS = ("L1", "L2", "Liver1", "9")


def landmarks(coords, labels=LABELS, name="points"):
    return Points.from_array(coords, labels, name)


def still(ndim=3):
    return Translation.by(np.zeros(ndim))


def test_distances_of_a_known_pair():
    errors = landmark_error(still(), landmarks(FIXED), landmarks(FIXED + OFFSETS))
    result = errors.all.to_json()
    assert errors.all.snapped is None
    assert result["n"] == 4
    assert result["mean_mm"] == result["initial_mean_mm"] == pytest.approx(8.5 / 4)
    assert result["sd_mm"] == pytest.approx(np.sqrt((25 + 0 + 6.25 + 1) / 4 - (8.5 / 4) ** 2))
    assert result["median_mm"] == pytest.approx(1.75)
    assert result["p25_mm"] == pytest.approx(0.75)  # three quarters of the way from 0 to 1
    assert result["p75_mm"] == pytest.approx(2.5 + 0.25 * 2.5)
    assert result["p95_mm"] == pytest.approx(2.5 + 0.85 * 2.5)
    assert result["max_mm"] == pytest.approx(5)
    assert result["trimmed98_mm"] == pytest.approx(8.5 / 4)  # 98 % of 4 is 4
    assert result["above_2mm_percent"] == 50
    assert result["above_5mm_percent"] == 0  # exactly 5 mm is not above


def test_maps_fixed_to_moving_and_not_back():
    shift = Translation.by([3.0, 4.0, 0.0])
    moving = landmarks(FIXED + np.array([3.0, 4.0, 0.0]))
    assert landmark_error(shift, landmarks(FIXED), moving).all.continuous.max_mm < 1e-12
    assert landmark_error(shift, moving, landmarks(FIXED)).all.continuous.mean_mm == pytest.approx(
        10
    )
    assert landmark_error(shift, landmarks(FIXED), moving).all.initial_mean_mm == pytest.approx(5)


def test_groups_are_the_letters_of_the_label():
    errors = landmark_error(still(), landmarks(FIXED), landmarks(FIXED + OFFSETS))
    assert list(errors.groups) == ["L", "Liver"]  # the label 9 has no letters
    assert errors.groups["L"].continuous.n == 2
    assert errors.groups["L"].continuous.mean_mm == pytest.approx(2.5)
    assert errors.groups["Liver"].initial_mean_mm == pytest.approx(2.5)
    assert landmark_error(still(), landmarks(FIXED, ()), landmarks(FIXED, ())).groups == {}


def test_a_group_may_be_called_all():
    errors = landmark_error(
        still(),
        landmarks(FIXED, ("all1", "b", "b", "b")),
        landmarks(FIXED + OFFSETS, ("all1", "b", "b", "b")),
    )
    written = errors.to_json()
    assert written["groups"]["all"]["n"] == 1
    assert written["all"]["n"] == 4


def test_snapping_moves_the_mapped_point_only():
    grid = Grid.from_spacing((10, 10, 10), (1.0, 2.0, 5.0), origin=(0.5, 0.0, 0.0))
    # nearest centres: (2.5, 4, 5); half-way goes up: (1.5, 2, 5)
    fixed = landmarks([[2.9, 3.1, 7.0], [1.0, 1.0, 2.5]], ("a", "b"))
    # the first one is off the lattice and stays there
    moving = landmarks([[2.5, 4.0, 6.0], [1.5, 2.0, 5.0]], ("a", "b"))
    np.testing.assert_allclose(
        landmark_distances(still(), fixed, moving, grid), [1.0, 0.0], atol=1e-12
    )
    errors = landmark_error(still(), fixed, moving, grid).all
    assert errors.to_json()["snapped_mean_mm"] == pytest.approx(0.5)
    assert errors.continuous.mean_mm == pytest.approx(
        (np.linalg.norm([0.4, 0.9, 1.0]) + np.linalg.norm([0.5, 1.0, 2.5])) / 2
    )


def test_snapping_on_an_oblique_grid_finds_the_nearest_centre():
    grid = oblique_3d()
    generator = np.random.default_rng(2)
    voxels = generator.uniform(-2.0, 13.0, (50, 3))  # the lattice goes on beyond the image
    fixed = landmarks(voxels @ grid.matrix.T + grid.origin, ())
    moving = landmarks(generator.normal(fixed.coords, 3.0), ())
    corners = np.floor(voxels)[:, None] + np.stack(
        np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1
    ).reshape(1, 8, 3)
    centres = corners @ grid.matrix.T + grid.origin
    nearest = centres[
        np.arange(50), np.linalg.norm(centres - fixed.coords.numpy()[:, None], axis=-1).argmin(1)
    ]
    np.testing.assert_allclose(
        landmark_distances(still(), fixed, moving, grid),
        np.linalg.norm(nearest - moving.coords.numpy(), axis=-1),
        rtol=1e-9,
    )


def test_statistics_equal_the_formulas_of_an_independent_scorer():
    distances = np.random.default_rng(0).gamma(2.0, 1.0, 251)
    result = distance_statistics(torch.as_tensor(distances))
    assert result.mean_mm == pytest.approx(distances.mean())
    assert result.sd_mm == pytest.approx(distances.std())
    assert result.median_mm == pytest.approx(np.median(distances))
    assert result.p95_mm == pytest.approx(np.percentile(distances, 95))
    assert result.trimmed98_mm == pytest.approx(np.sort(distances)[: int(0.98 * 251 + 0.5)].mean())
    assert result.trimmed98_mm < result.mean_mm


def test_trimming_leaves_out_two_of_a_hundred_and_keeps_the_last_one():
    assert distance_statistics(torch.tensor([1.0] * 98 + [50.0, 60.0])).trimmed98_mm == 1
    assert distance_statistics(torch.tensor([3.0])).trimmed98_mm == 3


def test_json_is_flat_numbers():
    grid = oblique_3d()
    errors = landmark_error(affine_about(grid), landmarks(FIXED), landmarks(FIXED + OFFSETS), grid)
    written = json.loads(json.dumps(errors.to_json(), allow_nan=False))
    assert all(isinstance(value, float | int) for value in written["all"].values())
    assert set(written["groups"]["L"]) == set(written["all"])
    assert all(key == "n" or key.endswith(("_mm", "_percent")) for key in written["all"])


def test_works_in_two_dimensions():
    errors = landmark_error(still(2), landmarks(FIXED[:, :2]), landmarks((FIXED + OFFSETS)[:, :2]))
    assert errors.all.continuous.mean_mm == pytest.approx(6.5 / 4)


def test_refuses_pairs_that_do_not_match():
    with pytest.raises(InputError, match="4 landmarks and moving 3"):
        landmark_error(
            still(), landmarks(FIXED, name="fixed"), landmarks(FIXED[:3], LABELS[:3], "moving")
        )
    with pytest.raises(InputError, match="landmark 1 is 'L1' in fixed but '9' in moving"):
        landmark_error(
            still(), landmarks(FIXED, name="fixed"), landmarks(FIXED, LABELS[::-1], "moving")
        )
    with pytest.raises(InputError, match="at least one pair"):
        landmark_error(still(), landmarks(np.zeros((0, 3)), ()), landmarks(np.zeros((0, 3)), ()))
    with pytest.raises(FrameError, match=r"\[2, 3\]"):
        landmark_error(still(2), landmarks(FIXED), landmarks(FIXED))
    with pytest.raises(InputError, match="1 of 2 distances are not finite"):
        distance_statistics(torch.tensor([1.0, torch.nan]))
