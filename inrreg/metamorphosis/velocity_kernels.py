"""Reproducing kernels: how a force on the image becomes a smooth velocity.

Widths are in mm, on any grid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.ops.separable import apply_along_axes

Operator = Callable[[Float[Tensor, "d *shape"]], Float[Tensor, "d *shape"]]
"""K on the voxels of a grid: symmetric and positive, so that <f, K f> is a squared norm."""


class Kernel(Protocol):
    """A symmetric, positive kernel of integral 1: K f is f blurred, in the units of f, and zero is
    assumed beyond the grid.
    """

    def on(self, grid: Grid, like: Tensor) -> Operator:
        """K on the voxels of ``grid``, in the precision and on the device of ``like``."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """k(x) = exp(-|x|^2 / (2 sigma^2)) / (2 pi sigma^2)^(d/2), with sigma in mm.

    Raises:
        InputError: a width that is not positive.
    """

    sigma_mm: float

    def __post_init__(self) -> None:
        if not self.sigma_mm > 0:
            raise InputError(f"a Gaussian kernel needs a positive width in mm, got {self.sigma_mm}")

    def on(self, grid: Grid, like: Tensor) -> Operator:
        """See ``Kernel``: one dense matrix an axis."""
        matrices = [
            torch.as_tensor(
                _symmetric_gaussian(n, self.sigma_mm / h), dtype=like.dtype, device=like.device
            )
            for n, h in zip(grid.shape, grid.spacing, strict=True)
        ]
        return lambda field: apply_along_axes(field, matrices)


@dataclass(frozen=True)
class MultiScale:
    """The weighted sum of Gaussians of several widths, in mm (Risser et al., IEEE TMI 2011): large
    motion and detail at once. Equal weights unless given; they sum to 1.

    Raises:
        InputError: no width, one that is not positive, or weights that are not one positive number
            a width.
    """

    sigmas_mm: Sequence[float]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.sigmas_mm:
            raise InputError(
                "a multi-scale kernel needs at least one width, for instance sigmas_mm=(4, 12)"
            )
        if self.weights is not None and (
            len(self.weights) != len(self.sigmas_mm) or not min(self.weights) > 0
        ):
            raise InputError(
                f"a multi-scale kernel of {len(self.sigmas_mm)} widths needs as many positive"
                f" weights, got {list(self.weights)}"
            )
        for sigma in self.sigmas_mm:
            Gaussian(sigma)

    def on(self, grid: Grid, like: Tensor) -> Operator:
        """See ``Kernel``."""
        weights = [1.0] * len(self.sigmas_mm) if self.weights is None else self.weights
        parts = [
            (w / sum(weights), Gaussian(sigma).on(grid, like))
            for w, sigma in zip(weights, self.sigmas_mm, strict=True)
        ]
        return lambda field: torch.stack([w * operator(field) for w, operator in parts]).sum(0)


def _symmetric_gaussian(n: int, sigma: float) -> np.ndarray:
    """The ``[n, n]`` Gaussian of ``sigma`` voxels, its rows those of an endless lattice of sum 1:
    cut off at the borders, not scaled there, for that would cost the symmetry.
    """
    reach = np.arange(-max(n, int(np.ceil(8 * sigma))), max(n, int(np.ceil(8 * sigma))) + 1)
    values = np.exp(-0.5 * (np.arange(n) / sigma) ** 2) / np.exp(-0.5 * (reach / sigma) ** 2).sum()
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    # what single precision holds with few digits slows every product down
    return np.where(values > 1e-30, values, 0.0)[apart]
