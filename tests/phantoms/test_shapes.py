"""Blobs under shears: the moving image is the fixed one at the exact inverse, in two and three
dimensions.
"""

import numpy as np
import pytest
import torch

from inrreg.core.errors import InputError
from inrreg.ops.sampling import cubic, nearest
from inrreg.phantoms import PhantomPair, blob_pair, cut_c_pair
from inrreg.transforms import DenseDisplacement, NumericInverse


@pytest.fixture(scope="module", params=[(40, 36, 30), (56, 48)], ids=["3-D", "2-D"])
def pair(request: pytest.FixtureRequest) -> PhantomPair:
    return blob_pair(request.param, shift_mm=5.0, seed=2)


def test_intensities_follow_the_truth(pair: PhantomPair) -> None:
    inside = pair.fixed_mask.data[0] > 0
    points = pair.fixed.grid.points(torch.float64)[inside]
    fixed = pair.fixed.data[0][inside].double()
    error = cubic(pair.moving, pair.truth(points))[0] - fixed
    # cubic interpolation of the thinnest blobs, one voxel wide
    assert float(error.abs().max()) < 0.05 * float(fixed.max())
    assert float(error.pow(2).mean().sqrt()) < 0.02 * float(
        (cubic(pair.moving, points)[0] - fixed).pow(2).mean().sqrt()
    )


def test_landmarks_and_the_dense_field_follow_the_truth(pair: PhantomPair) -> None:
    assert torch.equal(pair.truth(pair.fixed_landmarks.coords), pair.moving_landmarks.coords)
    assert float(
        (pair.moving_landmarks.coords - pair.fixed_landmarks.coords).norm(dim=1).mean()
    ) == pytest.approx(5.0, abs=1e-6)
    field = DenseDisplacement(pair.displacement, pair.fixed.grid)
    # linear interpolation of a wave of some 100 mm
    torch.testing.assert_close(
        field(pair.fixed_landmarks.coords), pair.moving_landmarks.coords, atol=0.05, rtol=0
    )


def test_the_map_is_smooth_and_invertible(pair: PhantomPair) -> None:
    points = pair.fixed_landmarks.coords
    jacobian = torch.func.vmap(torch.func.jacrev(lambda p: pair.truth(p[None])[0]))(points)
    torch.testing.assert_close(
        torch.linalg.det(jacobian), torch.ones(len(points), dtype=torch.float64)
    )
    field = DenseDisplacement(pair.displacement.double(), pair.fixed.grid, "cubic")
    back = NumericInverse(field, tolerance_mm=1e-3)(pair.moving_landmarks.coords)
    # cubic interpolation of the same wave
    torch.testing.assert_close(back, points, atol=0.02, rtol=0)


def test_masks_correspond(pair: PhantomPair) -> None:
    warped = (
        nearest(
            pair.moving_mask,
            pair.truth(pair.fixed.grid.points(torch.float64).reshape(-1, pair.fixed.grid.ndim)),
        )[0]
        > 0
    )
    fixed = pair.fixed_mask.data[0].flatten() > 0
    assert 2 * int((warped & fixed).sum()) / int(warped.sum() + fixed.sum()) > 0.95
    assert float(nearest(pair.fixed_mask, pair.fixed_landmarks.coords).min()) == 1


def test_grids_are_oblique_and_anisotropic(pair: PhantomPair) -> None:
    grid = pair.fixed.grid
    assert np.abs(grid.direction - np.eye(grid.ndim)).max() > 0.1
    assert len(set(np.round(grid.spacing, 6))) == grid.ndim
    assert not grid.aligned_with(pair.moving.grid)


def test_noise_and_seeds() -> None:
    clean, noisy, again, other = (
        blob_pair((20, 18, 16), seed=s, noise=n)
        for s, n in ((0, 0.0), (0, 0.1), (0, 0.1), (1, 0.1))
    )
    fixed, moving = noisy.fixed.data - clean.fixed.data, noisy.moving.data - clean.moving.data
    # 5 760 voxels: 1 % is one standard error
    assert float(fixed.std()) == pytest.approx(0.1, rel=0.05)
    # four and a half standard errors
    assert abs(float(torch.corrcoef(torch.stack([fixed.flatten(), moving.flatten()]))[0, 1])) < 0.06
    assert torch.equal(noisy.moving.data, again.moving.data)
    assert torch.equal(noisy.displacement, again.displacement)
    assert not torch.equal(noisy.displacement, other.displacement)


def test_no_shift_is_the_identity_and_a_negative_one_is_refused() -> None:
    still = blob_pair((12, 10), shift_mm=0.0)
    assert float(still.displacement.abs().max()) == 0
    with pytest.raises(InputError, match=r"-1 mm is not possible"):
        blob_pair((12, 10), shift_mm=-1.0)


# --- the C that is cut ----------------------------------------------------------------------------


def test_outside_the_cut_and_the_disc_the_truth_explains_the_c() -> None:
    pair, absent = cut_c_pair((96, 90), 1.0, shift_mm=3.0, seed=1)
    there = cubic(pair.moving, pair.truth(pair.fixed.grid.points(torch.float64).reshape(-1, 2)))[
        0
    ].reshape(pair.fixed.grid.shape)
    error, before = (
        (a - pair.fixed.data[0])
        for a in (there, cubic(pair.moving, pair.fixed.grid.points(torch.float64))[0])
    )
    # the blurred edge of the cut and the disc
    near = torch.nn.functional.max_pool2d(absent.data[None].float(), 5, 1, 2)[0, 0] > 0
    assert (
        float(error[~near].square().mean().sqrt())
        < 0.05 * float(before[~near].square().mean().sqrt()) + 0.005
    )
    assert float(error[absent.data[0] > 0].abs().mean()) > 0.7
    assert float(
        (pair.moving_landmarks.coords - pair.fixed_landmarks.coords).norm(dim=1).mean()
    ) == pytest.approx(3.0, abs=1e-6)


def test_the_c_is_two_pieces_and_a_disc() -> None:
    from scipy.ndimage import label

    pair, absent = cut_c_pair()
    assert label(pair.moving.numpy() > 0.5)[1] == 1
    assert label(pair.fixed.numpy() > 0.5)[1] == 3
    assert label(absent.numpy())[1] == 2
    assert 0 <= float(pair.fixed.data.min()) <= float(pair.fixed.data.max()) <= 1


def test_the_c_is_flat() -> None:
    with pytest.raises(InputError, match=r"2-D shape, got the shape \(8, 8, 8\)"):
        cut_c_pair((8, 8, 8))
