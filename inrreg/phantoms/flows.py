"""Smooth motion made unlike the way it will be sought: a stationary velocity field, sampled and
interpolated by scipy's cubic splines, followed in time.

The map phi with d phi_t / dt = v(phi_t), phi_0(x) = x, is invertible at every t whatever the
amplitude of v, and its inverse follows -v (Arsigny et al., MICCAI 2006).
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.phantoms.phantom_pair import amplitude_for
from inrreg.phantoms.random_field import RandomField

_STEPS = 6
"""Runge-Kutta steps of fourth order: at velocities of 10 mm that vary over 10 mm they err by less
than a hundredth of a mm.
"""
_STILL_MM = 1e-3
"""A point this slow is not followed."""
_PROBES = 1000
"""Points on which a motion is measured while its amplitude is sought."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """A function of world points from its samples on ``grid``: interpolating cubic splines,
    ``coefficients`` is ``[c, *shape]``; beyond the grid the border value holds.
    """

    coefficients: Float[Tensor, "c *shape"]
    grid: Grid

    @classmethod
    def of(cls, values: Float[Tensor, "*shape c"], grid: Grid) -> Self:
        """The function that has ``values`` at the voxels of ``grid``."""
        from scipy.ndimage import spline_filter

        channels = [
            spline_filter(channel.double().cpu().numpy(), order=3, mode="mirror")
            for channel in values.unbind(-1)
        ]
        return cls(torch.from_numpy(np.stack(channels)), grid)

    def __call__(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites c"]:
        from scipy.ndimage import map_coordinates

        last = torch.tensor(self.grid.shape, dtype=torch.float64) - 1
        voxels = (
            self.grid.to_voxel(points.double())
            .clamp(min=0)
            .minimum(last)
            .reshape(-1, self.grid.ndim)
            .T.numpy()
        )
        channels = [
            map_coordinates(channel, voxels, order=3, mode="mirror", prefilter=False)
            for channel in self.coefficients.numpy()
        ]
        return torch.from_numpy(np.stack(channels, -1)).reshape(*points.shape[:-1], len(channels))

    def scaled(self, factor: float) -> "Sampled":
        """``factor`` times the function."""
        return Sampled(factor * self.coefficients, self.grid)


def follow(
    velocity: Sampled, points: Float[Tensor, "*sites d"], time: float = 1.0
) -> Float[Tensor, "*sites d"]:
    """Where ``velocity`` (mm per unit of time) carries world points in ``time``; a negative one
    undoes a positive one.
    """
    flat = points.double().reshape(-1, points.shape[-1]).clone()
    moving = (velocity(flat).norm(dim=1) > _STILL_MM).nonzero()[:, 0]
    x, h = flat[moving], time / _STEPS
    for _ in range(_STEPS if len(moving) else 0):
        first = velocity(x)
        second = velocity(x + h / 2 * first)
        third = velocity(x + h / 2 * second)
        x = x + h / 6 * (first + 2 * second + 2 * third + velocity(x + h * third))
    flat[moving] = x
    return flat.reshape(points.shape)


def random_flow(
    grid: Grid,
    length_mm: float,
    motion_mm: float,
    probes: Float[Tensor, "n d"],
    rng: np.random.Generator,
) -> Sampled:
    """A velocity whose components are noise smoothed over ``length_mm``, and which in unit time
    carries ``probes`` by ``motion_mm`` on average.

    Raises:
        InputError: a negative motion.
    """
    field = RandomField.draw(rng, length_mm, components=grid.ndim, ndim=grid.ndim, waves=200)
    lattice = grid.covering(length_mm / 3, margin=2)
    return calibrated(
        Sampled.of(field(lattice.points(torch.float64)), lattice), motion_mm, probes, rng
    )


def calibrated(
    velocity: Sampled,
    motion_mm: float,
    probes: Float[Tensor, "n d"],
    rng: np.random.Generator,
    time: float = 1.0,
) -> Sampled:
    """``velocity`` at the amplitude at which it carries ``probes`` by ``motion_mm`` on average in
    ``time``.

    Raises:
        InputError: it cannot.
    """
    chosen = probes[torch.from_numpy(rng.permutation(len(probes))[:_PROBES])]

    def mean_motion(amplitude: float) -> float:
        return float((follow(velocity.scaled(amplitude), chosen, time) - chosen).norm(dim=1).mean())

    speed = float(velocity(chosen).norm(dim=1).mean())
    return velocity.scaled(
        amplitude_for(mean_motion, motion_mm, largest=5 * max(motion_mm, 1.0) / max(speed, 1e-9))
    )
