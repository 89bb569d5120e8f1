"""Guiding landmarks: a distance in mm that forgives a wrong pair."""

import pytest
import torch
from steps import Given, geometry, still, voxels_of
from torch import Tensor, nn
from worlds import oblique_grid

from inrreg.core.image import Points
from inrreg.objective.step import Step
from inrreg.similarity import LandmarkDistance
from inrreg.transforms import Affine, Transform, Translation

GRID = oblique_grid(3)
FIXED = Points.from_array([[-30.0, 50.0, 115.0], [-28.0, 52.0, 118.0], [-27.0, 49.0, 121.0]])


def cost(shift: float, robust_mm: float = 2.0) -> float:
    """The term where every fixed point is ``shift`` mm from its partner."""
    moving = Points(FIXED.coords + shift * torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3)
    return float(
        LandmarkDistance(FIXED, moving, robust_mm=robust_mm)(geometry(still(3), voxels_of(GRID)))
    )


def test_closed_form() -> None:
    assert cost(0.0) == pytest.approx(0, abs=1e-9)
    assert cost(1.5) == pytest.approx(2 * ((1.5**2 + 2**2) ** 0.5 - 2))  # pseudo-Huber


def test_is_quadratic_nearby_and_linear_far_away() -> None:
    assert cost(0.02) == pytest.approx(0.5 * 0.02**2, rel=1e-3)
    # the slope ends at robust_mm
    assert cost(1000.0) - cost(900.0) == pytest.approx(2 * 100, rel=1e-3)


def test_a_wrong_pair_does_not_tear() -> None:
    """One pair off by 500 mm pulls no harder than one off by a few mm."""
    pull = []
    for off in (10.0, 500.0):
        shift = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        moving = FIXED.coords.clone()
        moving[0, 0] += off
        step = geometry(
            Given(lambda points, shift=shift: shift.expand_as(points), 3), voxels_of(GRID)
        )
        LandmarkDistance(FIXED, Points(moving))(step).backward()
        assert shift.grad is not None
        pull.append(float(shift.grad.norm()))
    assert pull[1] == pytest.approx(pull[0], rel=0.03)
    assert pull[1] <= 2.0 / 3  # robust_mm over three pairs


def test_is_measured_through_the_start() -> None:
    turn = Affine.from_matrix(
        [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [5.0, 0.0, 0.0], [-29.0, 50.0, 118.0]
    ).requires_grad_(False)
    u = Translation.by([1.0, 2.0, 3.0]).requires_grad_(False)
    step = geometry(u, voxels_of(GRID))
    started = Step(step.samples, u, turn)
    assert float(LandmarkDistance(FIXED, Points(turn(u(FIXED.coords))))(started)) == pytest.approx(
        0, abs=1e-9
    )
    assert float(LandmarkDistance(FIXED, Points(u(FIXED.coords)))(started)) > 1


def test_gradient_is_right() -> None:
    moving = Points(
        FIXED.coords + torch.tensor([[1.0, 0.2, -3.0], [0.0, 0.1, 0.0], [30.0, 0.0, -4.0]]).double()
    )

    def value(matrix: Tensor) -> Tensor:
        transform: Transform = Given(lambda points: (points - FIXED.coords.mean(0)) @ matrix.T, 3)
        return LandmarkDistance(FIXED, moving)(geometry(transform, voxels_of(GRID)))

    assert torch.autograd.gradcheck(value, 0.1 * torch.eye(3, dtype=torch.float64).requires_grad_())
