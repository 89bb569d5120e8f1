"""Inverse consistency: zero for an exact inverse, known offsets otherwise, and no question asked
outside the mask.
"""

import numpy as np
import pytest
import torch
from evaluation_cases import GRIDS, affine_about, oblique_2d, oblique_3d

import inrreg.evaluation.consistency as module
from inrreg.core.errors import FrameError, InputError
from inrreg.core.image import Image, Points
from inrreg.evaluation import (
    inverse_consistency,
    inverse_consistency_on,
    jacobian_determinant,
    jacobian_statistics,
    landmark_error,
)
from inrreg.transforms import BSpline, Composite, Translation

both_dimensions = pytest.mark.parametrize("grid", GRIDS, ids=["2-D", "3-D"])


@both_dimensions
def test_an_exact_inverse_comes_back(grid):
    forward = affine_about(grid)
    points = Points(grid.points(torch.float64).reshape(-1, grid.ndim))
    assert inverse_consistency(forward, forward.inverse(), points).max_mm < 1e-9
    # single precision positions 100 mm from the origin
    assert inverse_consistency_on(forward, forward.inverse(), grid).max_mm < 1e-4


@both_dimensions
def test_an_offset_after_an_exact_inverse_is_what_is_reported(grid):
    forward = affine_about(grid)
    offset = np.array([3.0, 4.0, 0.0])[: grid.ndim]
    backward = Composite([forward.inverse(), Translation.by(offset)])
    result = inverse_consistency_on(forward, backward, grid)
    assert result.n == grid.n_voxels
    assert result.mean_mm == pytest.approx(5, abs=1e-4)
    assert result.sd_mm < 1e-4


def test_error_is_measured_in_fixed_space():
    grid = oblique_3d()
    forward = affine_about(grid, strength=0.0, shift=0.0)
    forward.gradient.data += torch.eye(3, dtype=torch.float64)  # doubles every length
    # 2 mm astray in moving space are 1 mm in fixed space
    backward = Composite([Translation.by([2.0, 0.0, 0.0]), forward.inverse()])
    points = Points(grid.points(torch.float64).reshape(-1, 3))
    assert inverse_consistency(forward, backward, points).mean_mm == pytest.approx(1)


def test_numeric_inverse_keeps_its_tolerance():
    grid = oblique_3d()
    forward = BSpline.over(grid, 8.0)
    forward.coefficients.data.normal_(0, 1.0, generator=torch.Generator().manual_seed(0))
    near = Points(grid.points(torch.float64).reshape(-1, 3)[::17])
    # 0.05 mm in moving space, locally stretched by less than two
    assert inverse_consistency(forward, forward.inverse(0.05), near).max_mm < 0.1


def test_only_the_mask_counts_and_is_asked(monkeypatch):
    grid = oblique_3d()
    inside = torch.zeros(1, *grid.shape)
    inside[0, 3:6] = 1

    class Fussy(Translation):
        """Refuses every point but those of the slices 3 to 5."""

        def displacement(self, points):
            assert ((grid.to_voxel(points)[..., 0] - 4).abs() < 1.01).all()
            return super().displacement(points) + points.new_tensor([1.0, 0.0, 0.0])

    still = Translation.by(np.zeros(3))
    monkeypatch.setattr(module, "CHUNK", 100)
    result = inverse_consistency_on(still, Fussy.by(np.zeros(3)), grid, Image(inside, grid, "body"))
    assert result.n == 3 * 10 * 9
    assert result.mean_mm == pytest.approx(1)


def test_transforms_may_live_on_an_accelerator(device):
    grid = oblique_3d()
    forward, mask = affine_about(grid).to(device), Image(torch.ones(1, *grid.shape), grid)
    points = Points(grid.points(torch.float64).reshape(-1, 3))
    assert inverse_consistency(forward, forward.inverse(), points).max_mm < 1e-9
    assert inverse_consistency_on(forward, forward.inverse(), grid, mask).max_mm < 1e-4
    errors = landmark_error(forward, points, Points(forward.cpu()(points.coords).detach()), grid)
    assert errors.all.continuous.max_mm < 1e-9
    det = jacobian_determinant(forward.to(device), grid)
    assert jacobian_statistics(det, mask).mean == pytest.approx(
        float(torch.linalg.det(forward.matrix().detach())), rel=1e-5
    )


def test_refuses_what_does_not_fit():
    grid = oblique_3d()
    flat, still = Translation.by(np.zeros(2)), Translation.by(np.zeros(3))
    with pytest.raises(FrameError, match="3-D and 2-D"):
        inverse_consistency_on(still, flat, grid)
    with pytest.raises(FrameError, match="body lies on"):
        inverse_consistency_on(
            still, still, grid, Image(torch.ones(1, *oblique_2d().shape), oblique_2d(), "body")
        )
    with pytest.raises(InputError, match="at least one point"):
        inverse_consistency(still, still, Points.from_array(np.zeros((0, 3))))
