"""What a growing or shrinking region does to the tissue around it: linear elasticity on a regular
lattice, held at the skull. In 2-D it is plane strain.

On a lattice it comes close to a nonlinear finite element model at a fraction of its cost (Mohamed
et al., Medical Image Analysis 2006; Zacharaki et al., IEEE TMI 2008). Taken as a velocity, and not
as a displacement, the solution cannot fold.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.ops.sampling import linear, smoothed
from inrreg.phantoms.flows import Sampled

_POISSON_RATIO = 0.4
"""Tissue drained by its vessels and ventricles; 0.5 would not give way at all."""
_LATTICE_MM = 4.0
_RESIDUAL = 1e-6


def outward(
    region: Bool[Tensor, "*shape"], held_outside: Bool[Tensor, "*shape"], grid: Grid
) -> Sampled:
    """The displacement, of unit length at most, under a pressure in ``region``; zero where
    ``held_outside`` is false.

    It solves mu lap u + (lambda + mu) grad div u = grad p, p = 1 in the region, with u = 0 outside:
    the minimum of 1/2 (mu |grad u|^2 + (lambda + mu) (div u)^2) - p div u over lattice nodes
    inside.

    Raises:
        InputError: the region has no inside to push at.
    """
    from scipy.sparse.linalg import cg

    lattice = grid.covering(_LATTICE_MM, margin=1)
    points = lattice.points(torch.float64)

    def on_lattice(mask: Tensor) -> np.ndarray:
        blurred = smoothed(Image(mask[None].double(), grid), _LATTICE_MM / 2)
        return linear(blurred, points, outside=0.0)[0].numpy()

    inside = on_lattice(held_outside) > 0.5
    pressure = on_lattice(region & held_outside).reshape(-1)
    gradient, divergence = _operators(lattice, inside)
    stiffness = (1 / (1 - 2 * _POISSON_RATIO)) * (divergence.T @ divergence) + gradient
    solution, failed = cg(stiffness, divergence.T @ pressure, rtol=_RESIDUAL, maxiter=5000)
    length = np.linalg.norm(solution.reshape(grid.ndim, -1), axis=0).max(initial=0.0)
    if failed or not length > 0:
        raise InputError(
            "a lesion's pressure moves nothing: it lies outside the brain, or is smaller than the 4"
            " mm lattice shows; give a larger lesion or another mask"
        )
    values = np.zeros((*lattice.shape, grid.ndim))
    values[inside] = (solution.reshape(grid.ndim, -1) / length).T @ lattice.direction.T
    return Sampled.of(torch.from_numpy(values), lattice)


def _operators(lattice: Grid, inside: np.ndarray) -> tuple[Any, Any]:
    """For components along the lattice axes, at the nodes inside: the matrix of the sum of squared
    gradients, and that of the divergence at all nodes.
    """
    from scipy import sparse

    columns = inside.reshape(-1).nonzero()[0]
    laplacian, parts = sparse.csr_array((len(columns), len(columns))), []
    for axis, (n, h) in enumerate(zip(lattice.shape, lattice.spacing, strict=True)):
        forward = sparse.eye_array(n, k=1) / h - sparse.eye_array(n) / h
        central = sparse.eye_array(n, k=1) / (2 * h) - sparse.eye_array(n, k=-1) / (2 * h)
        slope, change = (
            _along(matrix, axis, lattice.shape)[:, columns] for matrix in (forward, central)
        )
        laplacian = laplacian + slope.T @ slope
        parts.append(change)
    return sparse.block_diag([laplacian] * lattice.ndim, format="csr"), sparse.hstack(
        parts, format="csr"
    )


def _along(matrix: Any, axis: int, shape: tuple[int, ...]) -> Any:
    """``matrix`` applied along one axis of an array of ``shape``, flattened."""
    from scipy import sparse

    factors = [sparse.eye_array(n) for n in shape]
    factors[axis] = matrix
    product: Any = factors[0]
    for factor in factors[1:]:
        product = sparse.kron(product, factor, format="csc")
    return product
