"""Determinants and solutions of small matrices, such as Jacobian matrices.

The written-out formulas are many times faster than a general solver and can be differentiated
repeatedly.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError


def determinant(matrix: Float[Tensor, "*sites d d"]) -> Float[Tensor, "*sites"]:
    """det of every 2 x 2 or 3 x 3 matrix.

    Raises:
        InputError: matrices of another size.
    """
    size = tuple(matrix.shape[-2:])
    if size == (2, 2):
        return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    if size != (3, 3):
        raise InputError(
            "determinant takes 2 x 2 or 3 x 3 matrices on the last two axes, got"
            f" {tuple(matrix.shape)}; use torch.linalg.det for other sizes"
        )
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in matrix.unbind(-2))
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)


SINGULAR = 1e-4
"""The volume of the box that the columns of a matrix span, each of length one, below which its
equations are left to least squares.
"""


def solve(matrix: Float[Tensor, "n d d"], right: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The solution x of matrix x = right by Cramer's rule.

    Singular or nearly singular matrices give the least-squares solution.
    """
    columns = list(matrix.unbind(-1))
    volume = determinant(matrix)
    replaced = [
        determinant(
            torch.stack([right if b == a else column for b, column in enumerate(columns)], -1)
        )
        for a in range(len(columns))
    ]
    found = torch.stack(replaced, -1) / volume[:, None]
    flat = ~(volume.abs() > SINGULAR * matrix.norm(dim=-2).prod(-1))
    if bool(flat.any()):
        found[flat] = (torch.linalg.pinv(matrix[flat], rtol=SINGULAR) @ right[flat][..., None])[
            ..., 0
        ]
    return found
