"""Breathing out: the diaphragm rises, the lungs slide along a chest wall that hardly moves.

In the cavity T = wall o slide o stir, outside it T = wall (each maps fixed -> moving, mm in the
frame of the body):

- ``stir`` moves the inside about by a smooth random field that dies out at the wall;
- ``slide`` lifts every point along the straightened cavity, not at all at the apex and most at the
  diaphragm, and in between earlier where a region empties than where air is trapped. A point on the
  wall stays on the wall, so the cavity's surface is mapped onto itself while its two sides move
  past each other;
- ``wall`` lets the front of the chest sink a little, with everything in it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InversionError
from inrreg.phantoms.anatomy import Thorax
from inrreg.phantoms.random_field import RandomField

_REACH = 0.6
"""Depth below the apex, in lung heights, over which the lift sets in."""
LARGEST_LIFT_MM = 90.0
"""From about 110 mm on, points near mid-lung would overtake those above them."""
REGION_MM = 50.0
"""Length over which the share of air that a region gives up changes: one lung is about two regions
wide and four high.
"""
_COLUMNS = (1.0, 1.0, 0.2)
"""Regions are longer along the cavity than across it: neighbours there push each other."""
_TOLERANCE_MM = 1e-5


@dataclass(frozen=True, eq=False)
class Breathing:
    """The map from the inhaled (fixed) to the exhaled (moving) state of ``thorax``.

    ``lift_mm`` is how far the diaphragm rises, ``stir_mm`` the standard deviation of each component
    of the random motion, ``sink_mm`` how far the breast bone sinks. ``uneven`` is how unevenly
    ``regions`` empty: the depth over which a region's lift sets in varies by a factor of up to
    exp(uneven), either way.
    """

    thorax: Thorax
    lift_mm: float
    stir_mm: float
    sink_mm: float
    field: RandomField
    uneven: float
    regions: RandomField

    def at_rest(self) -> Self:
        """The same chest before it breathes out."""
        return replace(self, lift_mm=0.0, stir_mm=0.0, sink_mm=0.0)

    def __call__(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """T: the motion of the inside in the cavity, that of the wall outside it."""
        return torch.where(
            (self.thorax.cavity(points) < 0)[:, None], self.inside(points), self.wall(points)
        )

    def inside(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """How the contents of the cavity move; smooth up to the wall and a little beyond."""
        straight = self.thorax.straighten(points)
        stirred = straight + self._stir(straight)
        return self.wall(self.thorax.bend(stirred + self._slide(stirred)))

    def inside_inverse(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Where the contents of the cavity came from."""
        straight = self.thorax.straighten(self.wall_inverse(points))
        return self.thorax.bend(_solve(_solve(straight, self._slide), self._stir))

    def wall(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """How ribs, muscles and skin move."""
        return points + self._sink(points)

    def wall_inverse(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Where ribs, muscles and skin came from."""
        return _solve(points, self._sink)

    def expansion(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """det of the Jacobian of ``inside``: volume after over volume before."""
        directions = torch.eye(3, dtype=points.dtype)
        columns = [
            torch.func.jvp(self.inside, (points,), (e.expand_as(points).contiguous(),))[1]
            for e in directions
        ]
        return torch.linalg.det(torch.stack(columns, -1))

    def _sink(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        share = torch.sigmoid((points[:, 1] - 25) / 22) * torch.exp(
            -(((points[:, 2] + 5) / 100) ** 2)
        )
        return torch.stack(
            [torch.zeros_like(share), -self.sink_mm * share, torch.zeros_like(share)], 1
        )

    def _stir(self, straight: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        off_wall = (1 - self.thorax.cross_section(straight)).clamp(min=0) ** 2
        off_wall = off_wall / (off_wall + 0.2)
        off_apex = 1 - torch.exp(-((self.thorax.depth(straight[:, 2]) / 0.25) ** 2))
        return (
            self.stir_mm
            * self.field(straight)
            * torch.stack([off_wall, off_wall, off_apex], 1)
            * off_apex[:, None]
        )

    def _slide(self, straight: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Upwards only: by the lift of the diaphragm below (more at the back, less under the
        heart), times a share that is 0 at the apex and 1 far below.

        Where regions empty unevenly, each has a depth of its own over which the lift sets in, so
        that mid-lung is torn most; the diaphragm moves in one piece.
        """
        x, y = (
            straight[:, 0] / self.thorax.half_width[0],
            straight[:, 1] / self.thorax.half_width[1],
        )
        lift = self.lift_mm * (
            1.05
            - 0.25 * torch.tanh(y)
            + 0.06 * torch.tanh(2 * x)
            - 0.35 * torch.exp(-((x / 0.25) ** 2))
        )
        reach = _REACH * torch.exp(
            self.uneven * torch.tanh(self.regions(straight * straight.new_tensor(_COLUMNS))[:, 0])
        )
        share = 1 - torch.exp(-((self.thorax.depth(straight[:, 2]) / reach) ** 2))
        return torch.stack([torch.zeros_like(lift), torch.zeros_like(lift), lift * share], 1)


def _solve(
    targets: Float[Tensor, "n 3"], displacement: Callable[[Tensor], Tensor]
) -> Float[Tensor, "n 3"]:
    """x with x + displacement(x) = target, by the fixed point iteration: every displacement here
    changes by less than its argument.

    Raises:
        InversionError: it does not, at some point.
    """
    solution = targets.clone()
    active = torch.arange(len(targets))
    for _ in range(200):
        update = targets[active] - displacement(solution[active])
        moved = (update - solution[active]).abs().amax(1) > _TOLERANCE_MM
        solution[active] = update
        active = active[moved]
        if len(active) == 0:
            return solution
    raise InversionError(
        f"{len(active)} points of the phantom's motion could not be inverted, the first at"
        f" {solution[active[0]].tolist()} mm; ask for less motion"
    )
