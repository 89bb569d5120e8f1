"""Determinants and equations against torch's general solvers."""

import numpy as np
import pytest
import torch

from inrreg.core.errors import InputError
from inrreg.ops.small_matrices import determinant, solve


@pytest.mark.parametrize("d", [2, 3])
def test_equals_the_general_solver(d):
    matrices = torch.randn(
        4, 5, d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(
        determinant(matrices), torch.linalg.det(matrices), rtol=1e-10, atol=1e-12
    )


def test_hand_computed():
    assert determinant(torch.tensor([[2.0, 1.0], [3.0, 5.0]])) == 7
    assert determinant(torch.tensor([[2.0, 0.0, 1.0], [1.0, 3.0, 2.0], [1.0, 1.0, 4.0]])) == 18
    assert determinant(torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])) == -1


@pytest.mark.parametrize("d", [2, 3])
def test_is_twice_differentiable(d):
    matrices = torch.randn(
        3, d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    assert torch.autograd.gradcheck(determinant, matrices)
    assert torch.autograd.gradgradcheck(determinant, matrices)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1)])
def test_refuses_other_sizes(shape):
    with pytest.raises(InputError, match="2 x 2 or 3 x 3"):
        determinant(torch.zeros(shape))


@pytest.mark.parametrize("d", [2, 3])
def test_equations_are_solved_and_flat_ones_by_least_squares(d):
    generator = torch.Generator().manual_seed(2)
    matrices, right = (
        torch.randn(50, d, d, dtype=torch.float64, generator=generator),
        torch.randn(50, d, dtype=torch.float64, generator=generator),
    )
    matrices[7, :, 1] = -2 * matrices[7, :, 0]
    torch.testing.assert_close(
        solve(matrices, right)[7],
        torch.from_numpy(np.linalg.pinv(matrices[7].numpy(), rcond=1e-9)) @ right[7],
    )
    keep = [n for n in range(50) if n != 7]
    torch.testing.assert_close(
        solve(matrices, right)[keep],
        torch.linalg.solve(matrices[keep], right[keep]),
        rtol=1e-9,
        atol=1e-9,
    )
    torch.testing.assert_close(
        solve(1e-9 * matrices, right)[keep], 1e9 * solve(matrices, right)[keep], rtol=1e-9, atol=0
    )
    assert len(solve(matrices[:0], right[:0])) == 0
