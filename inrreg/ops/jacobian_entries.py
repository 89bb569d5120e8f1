"""The entries of a Jacobian, each in one piece: compiled loops walk over these."""

import torch
from jaxtyping import Float
from torch import Tensor


def entries(jacobian: Float[Tensor, "b *lattice d d"]) -> Float[Tensor, "d d b *lattice"]:
    """The entries first, derivatives before components, without the graph; a view where a spline
    was rendered, else a copy.
    """
    return jacobian.detach().movedim((-1, -2), (0, 1)).contiguous()


def as_jacobian(entries: Float[Tensor, "d d b *lattice"]) -> Float[Tensor, "b *lattice d d"]:
    """The view the other way round."""
    return entries.movedim((0, 1), (-1, -2))


def random_jacobian(ndim: int, generator: torch.Generator) -> Float[Tensor, "b *lattice d d"]:
    """About the identity, with folds: an example for the operations on Jacobians."""
    shape = (2, 7, 6) if ndim == 2 else (2, 4, 3, 5)
    drawn = torch.randn(*shape, ndim, ndim, dtype=torch.float64, generator=generator)
    return 0.4 * drawn + torch.eye(ndim, dtype=torch.float64)
