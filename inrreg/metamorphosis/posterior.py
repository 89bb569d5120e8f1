"""Two coordinate networks beside the one that moves: m, where there is no counterpart, and r, what
changed there.

Both are fitted with the map held: nothing of what they explain comes back to it, or repainting
would be cheaper than moving.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from inrreg.core.grid import Cube, Grid
from inrreg.fields import built
from inrreg.metamorphosis.aligned import Aligned
from inrreg.optimisation import Adam, Optimiser, Outcome
from inrreg.similarity.gated import gradient_magnitude
from inrreg.transforms.bspline import render, spline_lattice


class ScalarField(nn.Module):
    """A coordinate network of one output, asked at the knots of a lattice and drawn between them as
    the cubic B-spline through what it says there.
    """

    def __init__(self, network: nn.Module, cube: Cube, lattice: Grid) -> None:
        super().__init__()
        self.network, self.cube, self.lattice = network, cube, lattice

    def on(self, grid: Grid) -> Float[Tensor, "1 *shape"]:
        """Values at every voxel of a grid whose axes point along the lattice's."""
        parameter = next(self.network.parameters())
        knots = self.cube.to_unit(self.lattice.points(parameter.dtype, parameter.device))
        return render(
            spline_lattice(self.network(knots).movedim(-1, 0)), self.lattice, grid
        ).movedim(-1, 0)


@dataclass(frozen=True)
class ScalarModel:
    """Builds a ``ScalarField`` over a grid: a network of ``FIELDS``, asked every ``lattice_mm``; it
    starts at 0.
    """

    network: str = "siren"
    options: dict[str, Any] = field(
        default_factory=lambda: {"width": 32, "depth": 2, "omega": 60.0, "omega_hidden": 30.0}
    )
    lattice_mm: float = 5.0

    def build(self, grid: Grid, generator: torch.Generator) -> ScalarField:
        """A field of 0 over ``grid``, its weights drawn from ``generator``."""
        network = built(
            self.network, ndim=grid.ndim, outputs=1, generator=generator, **self.options
        )
        return ScalarField(network, Cube.around(grid), grid.covering(self.lattice_mm, margin=1))


@dataclass(frozen=True)
class Posterior:
    """Fits m so that

        mean of -m L - H(m)  +  ``perimeter_mm`` x mean of |grad m|

    is least: L is the log odds of having no counterpart, H the entropy of a coin of probability m.
    Without the perimeter that is the posterior probability m = 1 / (1 + exp(-L)); with it, voxels
    ask their neighbours (Mumford and Shah; Ising). A ball whose radius is below 3 ``perimeter_mm``
    / L is not seen (2 in 2-D), by design.
    """

    perimeter_mm: float = 3.0
    iterations: int = 60
    optimiser: Optimiser = field(default_factory=lambda: Adam(1e-2))

    def fit(
        self, logit: ScalarField, log_odds: Float[Tensor, "1 *shape"], view: Aligned
    ) -> Outcome:
        """Fit ``logit``, of which m is the sigmoid, to the log odds of ``view``."""
        weight, grid = view.weight.data, view.fixed.grid
        spacing = tuple(grid.spacing.tolist())
        total = weight.sum().clamp(min=1e-6)

        def cost() -> Tensor:
            s = logit.on(grid)
            m = s.sigmoid()
            free_energy = m * (s - log_odds) - softplus(s)
            return (
                weight * (free_energy + self.perimeter_mm * gradient_magnitude(m[None], spacing)[0])
            ).sum() / total

        return self.optimiser.minimise(cost, logit.parameters(), self.iterations)


@dataclass(frozen=True)
class Appearance:
    """Fits r so that the mean of m (e - r)^2 + ``l2_weight`` r^2 is least: e is what the map leaves
    unexplained, m where there is no counterpart. Where m is below ``l2_weight``, r stays near 0.
    """

    l2_weight: float = 0.1
    iterations: int = 60
    optimiser: Optimiser = field(default_factory=lambda: Adam(1e-2))

    def fit(
        self,
        change: ScalarField,
        unexplained: Float[Tensor, "1 *shape"],
        mask: Float[Tensor, "1 *shape"],
        grid: Grid,
    ) -> Outcome:
        """Fit ``change`` to what is unexplained under ``mask``."""
        total = mask.sum().clamp(min=1e-6)

        def cost() -> Tensor:
            r = change.on(grid)
            return (mask * (unexplained - r).square() + self.l2_weight * r.square()).sum() / total

        return self.optimiser.minimise(cost, change.parameters(), self.iterations)


def probability(
    logit: ScalarField, grid: Grid, weight: Float[Tensor, "1 *shape"]
) -> Float[Tensor, "1 *shape"]:
    """m on ``grid``, where ``weight`` allows it."""
    with torch.no_grad():
        return logit.on(grid).sigmoid() * weight
