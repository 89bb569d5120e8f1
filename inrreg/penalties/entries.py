"""The entries of a Jacobian, each in one piece: what compiled loops walk over."""

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.ops.small_matrices import determinant


def compiles(jacobian: Tensor) -> bool:
    """Whether compiled loops serve: on a CPU."""
    return jacobian.device.type == "cpu" and jacobian.dtype in (torch.float32, torch.float64)


def entries(jacobian: Float[Tensor, "b *lattice d d"]) -> Float[Tensor, "d d b *lattice"]:
    """The entries first, derivatives before components, without the graph; a view where a spline
    was rendered, else a copy.
    """
    return jacobian.detach().movedim((-1, -2), (0, 1)).contiguous()


def as_jacobian(entries: Float[Tensor, "d d b *lattice"]) -> Float[Tensor, "b *lattice d d"]:
    """The view the other way round."""
    return entries.movedim((0, 1), (-1, -2))


def determinants(jacobian: Float[Tensor, "b *lattice d d"]) -> Float[Tensor, "b *lattice"]:
    """det of each, without a gradient."""
    if not compiles(jacobian):
        return determinant(jacobian.detach())
    from inrreg.ops.loops import in_parallel
    from inrreg.ops.loops import penalties as kernels

    parts, out = entries(jacobian), jacobian.new_empty(jacobian.shape[:-2])
    in_parallel(
        kernels.determinants,
        out.numel(),
        parts.flatten(2).flatten(0, 1).numpy(),
        out.view(-1).numpy(),
    )
    return out
