"""Coordinate networks as transforms, and their rendering on a lattice."""

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import TransformError
from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.core.settings_checks import check_above_zero
from inrreg.fields import EXECUTION, FIELDS, Annealed, TwoWay, built, value_and_jacobian
from inrreg.ops.sampling import spatial_gradient, spline_combination
from inrreg.transforms.base import Transform, from_config, to_config
from inrreg.transforms.bspline import computed_spline, render, render_jacobian, spline_lattice


class Neural(Transform):
    """u(x) = scale_mm * field((x - cube centre) / cube half-width).

    ``field`` is any network that maps cube coordinates to d numbers.

    ``name`` and ``options`` say how ``FIELDS`` builds the network again; without them it can be
    used but not saved. A ``Field`` gives u and its Jacobian in one pass, any other module by
    forward-mode differentiation.
    """

    prefers_torch_threads = True

    def __init__(
        self,
        network: nn.Module,
        cube: Cube,
        scale_mm: float = 1.0,
        name: str = "",
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.cube = cube
        self.scale_mm = scale_mm
        self.name = name
        self.options = options or {}
        self.ndim = len(cube.center)

    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        return (self.scale_mm * self.network(self._unit(points))).to(points.dtype)

    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        slopes = value_and_jacobian(self.network, self._unit(points))[1].to(points.dtype)
        return self.scale_mm / self.cube.half_width * slopes + torch.eye(
            self.ndim, dtype=points.dtype, device=points.device
        )

    def refine(self, spacing_mm: float) -> None:
        """Let an ``Annealed`` network use all wavelengths that a lattice of ``spacing_mm`` renders
        well: four knots and more.

        Raises:
            TransformError: this network has all its wavelengths from the start.
        """
        if not isinstance(self.network, Annealed):
            raise TransformError(
                f"Neural has no lattice to refine to {spacing_mm} mm, and"
                f" {type(self.network).__name__} no bandwidth to raise; leave `control_spacing` out"
                " of its levels"
            )
        self.network.anneal(4 * spacing_mm / self.cube.half_width)

    def fitted_inverse(self) -> Transform:
        return (
            Neural(self.network.fitted_inverse(), self.cube, self.scale_mm)
            if isinstance(self.network, TwoWay)
            else super().fitted_inverse()
        )

    def _unit(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        return self.cube.to_unit(points).to(next(self.network.parameters()).dtype)

    def config(self) -> dict[str, Any]:
        if self.name not in FIELDS:
            raise TransformError(
                f"a network of type {type(self.network).__name__} has no name to be saved under;"
                " add it to inrreg.fields.FIELDS and give Neural its name and options"
            )
        options = {key: value for key, value in self.options.items() if key not in EXECUTION}
        return {
            "field": self.name,
            "options": options,
            "center": list(self.cube.center),
            "half_width": self.cube.half_width,
            "scale_mm": self.scale_mm,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        cube = Cube(tuple(config["center"]), config["half_width"])
        network = FIELDS[config["field"]](
            ndim=len(cube.center), outputs=len(cube.center), **config["options"]
        )
        return cls(network, cube, config["scale_mm"], config["field"], config["options"])


class Render(Transform):
    """The cubic B-spline that interpolates another transform's displacement at lattice knots.

    The inner field is asked once a knot instead of once a voxel, and what results is a free-form
    deformation whose coefficients a network predicts: C2, with analytic derivatives, rendered on
    any aligned grid by matrix products.
    """

    def __init__(self, inner: Transform, lattice: Grid) -> None:
        super().__init__()
        self.inner = inner
        self.lattice = lattice
        self.ndim = inner.ndim
        self.prefers_torch_threads = inner.prefers_torch_threads

    @classmethod
    def over(cls, inner: Transform, grid: Grid, spacing_mm: float) -> Self:
        """``inner`` asked on a lattice of ``spacing_mm`` that reaches past every voxel of
        ``grid``.
        """
        return cls(inner, grid.covering(spacing_mm, margin=1))

    def coefficients(self) -> Float[Tensor, "d *lattice"]:
        """The spline coefficients on the lattice, mm."""
        return spline_lattice(self.inner.displacement_on(self.lattice).movedim(-1, 0))

    def materialised(self) -> Transform:
        return computed_spline(self.coefficients(), self.lattice)

    def displacement(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d"]:
        return spline_combination(
            Image(self.coefficients(), self.lattice, "coefficients"), points
        ).movedim(0, -1)

    def jacobian(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites d d"]:
        gradient = spatial_gradient(self.coefficients(), self.lattice, points, 3)
        return gradient.movedim(0, -2) + torch.eye(
            self.ndim, dtype=points.dtype, device=points.device
        )

    def displacement_on(self, grid: Grid) -> Float[Tensor, "*shape d"]:
        return (
            render(self.coefficients(), self.lattice, grid)
            if grid.aligned_with(self.lattice)
            else super().displacement_on(grid)
        )

    def jacobian_on(self, grid: Grid) -> Float[Tensor, "*shape d d"]:
        return (
            render_jacobian(self.coefficients(), self.lattice, grid)
            if grid.aligned_with(self.lattice)
            else super().jacobian_on(grid)
        )

    def refine(self, spacing_mm: float) -> None:
        """Ask the inner field on a lattice of ``spacing_mm`` from now on: detail that it held
        between the old knots appears, and an annealed network may make more.
        """
        self.lattice = self.lattice.covering(spacing_mm)
        if isinstance(self.inner, Neural) and isinstance(self.inner.network, Annealed):
            self.inner.refine(spacing_mm)

    def config(self) -> dict[str, Any]:
        return {"inner": to_config(self.inner), "lattice": self.lattice.to_json()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(from_config(config["inner"]), Grid.from_json(config["lattice"]))


@dataclass(frozen=True)
class NeuralModel:
    """Builds a coordinate-network transform over the fixed grid; ``lattice_mm`` asks for it to be
    rendered on a lattice of that spacing, to whose wavelengths an annealed network then keeps.
    """

    network: str = "siren"
    options: dict[str, Any] = field(default_factory=dict)
    scale_mm: float = 10.0
    lattice_mm: float | None = None

    def __post_init__(self) -> None:
        check_above_zero(self, "scale_mm", "lattice_mm")

    def build(self, grid: Grid, generator: torch.Generator) -> Transform:
        """The identity over ``grid``, its weights drawn from ``generator``."""
        network = built(
            self.network, ndim=grid.ndim, outputs=grid.ndim, generator=generator, **self.options
        )
        neural = Neural(network, Cube.around(grid), self.scale_mm, self.network, dict(self.options))
        if self.lattice_mm is None:
            return neural
        if isinstance(network, Annealed):
            neural.refine(self.lattice_mm)
        return Render.over(neural, grid, self.lattice_mm)
