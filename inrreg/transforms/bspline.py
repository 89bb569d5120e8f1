"""Free-form deformation: a lattice of cubic B-spline coefficients (Rueckert et al., IEEE TMI
1999).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.settings_checks import check_above_zero
from inrreg.ops.banded import Separable
from inrreg.ops.sampling import spatial_gradient, spline_combination
from inrreg.ops.separable import apply_along_axes, resampling, spline_coefficients
from inrreg.ops.spline_jacobian import SplineBasis, spline_jacobian
from inrreg.transforms.base import Transform


class BSpline(Transform):
    """u(x) = sum of coefficient times cubic B-spline over ``lattice``; ``coefficients`` is ``[d,
    *lattice.shape]`` in mm.

    Beyond the lattice the border value holds. On a grid whose axes point along the lattice's, u and
    its derivatives are rendered exactly by one product an axis.
    """

    def __init__(self, lattice: Grid) -> None:
        super().__init__()
        self.ndim, self.lattice = lattice.ndim, lattice
        self.coefficients = nn.Parameter(torch.zeros(lattice.ndim, *lattice.shape))

    @classmethod
    def over(cls, grid: Grid, spacing_mm: float) -> Self:
        """The identity with knots ``spacing_mm`` apart that reach past every voxel of ``grid``."""
        return cls(grid.covering(spacing_mm, margin=1))

    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        return spline_combination(self._image(), points).movedim(0, -1)

    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        gradient = spatial_gradient(self.coefficients, self.lattice, points, 3)
        return gradient.movedim(0, -2) + torch.eye(
            self.ndim, dtype=points.dtype, device=points.device
        )

    def displacement_on(self, grid: Grid) -> Float[Tensor, "*shape d"]:
        if not grid.aligned_with(self.lattice):
            return super().displacement_on(grid)
        return render(self.coefficients, self.lattice, grid)

    def jacobian_on(self, grid: Grid) -> Float[Tensor, "*shape d d"]:
        if not grid.aligned_with(self.lattice):
            return super().jacobian_on(grid)
        return render_jacobian(self.coefficients, self.lattice, grid)

    def refine(self, spacing_mm: float) -> None:
        """Move to a lattice of ``spacing_mm``, whose spline interpolates the present map at the new
        knots.
        """
        finer = self.lattice.covering(spacing_mm)
        with torch.no_grad():
            self.coefficients = nn.Parameter(
                spline_lattice(render(self.coefficients, self.lattice, finer).movedim(-1, 0))
            )
        self.lattice = finer

    def _image(self) -> Image:
        return Image(self.coefficients, self.lattice, "coefficients")

    def config(self) -> dict[str, Any]:
        return {"lattice": self.lattice.to_json()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(Grid.from_json(config["lattice"]))


def spline_lattice(values: Float[Tensor, "c *lattice"]) -> Float[Tensor, "c *lattice"]:
    """The coefficients whose spline passes through ``values`` at the knots."""
    return apply_along_axes(values, [spline_coefficients(n) for n in values.shape[1:]])


def interpolating_spline(values: Float[Tensor, "*lattice d"], lattice: Grid) -> BSpline:
    """The free-form deformation whose displacement at the knots of ``lattice`` is ``values``, mm;
    not to be fitted.
    """
    spline = BSpline(lattice).to(values.device)
    with torch.no_grad():
        spline.coefficients.copy_(spline_lattice(values.movedim(-1, 0)))
    return spline.requires_grad_(False)


def computed_spline(coefficients: Float[Tensor, "d *lattice"], lattice: Grid) -> BSpline:
    """The free-form deformation of coefficients that something else has computed and gets the
    gradient of; it has no parameters.
    """
    spline = BSpline(lattice)
    del spline.coefficients
    spline.register_buffer("coefficients", coefficients, persistent=False)
    return spline


def render(
    coefficients: Float[Tensor, "d *lattice"], lattice: Grid, grid: Grid
) -> Float[Tensor, "*shape d"]:
    """The spline combination at every voxel of an aligned ``grid``; each component lies in one
    piece in memory.
    """
    key = _ByContent(grid), _ByContent(lattice)
    product = _rendering(*key, coefficients.dtype, coefficients.device)
    return product(coefficients).movedim(0, -1)


def render_jacobian(
    coefficients: Float[Tensor, "d *lattice"], lattice: Grid, grid: Grid
) -> Float[Tensor, "*shape d d"]:
    """I + Du at every voxel of an aligned ``grid``, by world axes; each entry lies in one piece in
    memory.
    """
    key = _ByContent(grid), _ByContent(lattice)
    basis = _basis(*key, coefficients.dtype, coefficients.device)
    return spline_jacobian(coefficients, basis).movedim((1, 0), (-2, -1))


class _ByContent:
    """A grid as the key of a cache: two grids of the same shape and affine are the same key."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._content = (grid.shape, grid.affine.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContent) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)


@lru_cache(maxsize=64)
def _rendering(
    grid: _ByContent, lattice: _ByContent, dtype: torch.dtype, device: torch.device
) -> Separable:
    """A spline on a grid. It is cached because every step of a level evaluates the same one."""
    matrices = resampling(grid.grid, lattice.grid, order=3)
    return Separable([torch.as_tensor(matrix, dtype=dtype, device=device) for matrix in matrices])


@lru_cache(maxsize=64)
def _basis(
    grid: _ByContent, lattice: _ByContent, dtype: torch.dtype, device: torch.device
) -> SplineBasis:
    """The bases of a spline on a grid and their derivatives, cached for the same reason."""
    values, slopes = (
        [
            torch.as_tensor(matrix, dtype=dtype, device=device)
            for matrix in resampling(grid.grid, lattice.grid, 3, [order] * grid.grid.ndim)
        ]
        for order in (0, 1)
    )
    to_world = np.linalg.inv(lattice.grid.direction).T.copy()
    return SplineBasis(values, slopes, torch.as_tensor(to_world, dtype=dtype, device=device))


@dataclass(frozen=True)
class FreeForm:
    """Builds a free-form deformation with knots ``spacing_mm`` apart over the fixed grid."""

    spacing_mm: float = 16.0

    def __post_init__(self) -> None:
        check_above_zero(self, "spacing_mm")

    def build(self, grid: Grid, generator: torch.Generator) -> BSpline:
        """The identity over ``grid``."""
        return BSpline.over(grid, self.spacing_mm)
