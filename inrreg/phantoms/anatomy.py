"""A chest as level functions: where the cavity, the lungs, their lobes, the mediastinum, the
diaphragm and the body begin and end.

Coordinates are mm in the frame of the body: origin in the middle of the chest, axes right,
anterior, superior, the breathing state that of the fixed image. A level is negative inside its
organ, zero on the surface, and grows by about 1 per mm near it.

The cavity (everything that slides along the chest wall: lungs, mediastinum, abdomen) is a tube that
narrows towards the apex, with one cross-section for all heights up to scale. ``straighten`` undoes
the narrowing: there the wall is a straight cylinder, a motion along it slides, and whatever keeps
to the cross-section stays in the cavity.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inrreg.phantoms.random_field import RandomField

BOX_MM = (288.0, 240.0, 288.0)
"""The image box this chest is drawn for."""
_HEIGHT = 220.0
"""From the apex to the costophrenic angles."""
_SQUARENESS = 2.3
"""Exponent of the superellipse of the cross-section."""
_SPINE_NOTCH = 1.5
"""How deep the spine presses into the cavity: its radius there is 1 / sqrt(1 + notch) of what it
would be.
"""


@dataclass(frozen=True, eq=False)
class Thorax:
    """One patient: lengths in mm, positions (x, y, z) in the body frame."""

    half_width: tuple[float, float]
    top: float
    diaphragm: float
    domes: tuple[float, float]
    heart: tuple[float, float, float]
    heart_radii: tuple[float, float, float]
    undulation: RandomField
    texture: RandomField
    fine_texture: RandomField

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """A patient of about average build."""

        def about(*values: float, spread: float) -> tuple[float, ...]:
            return tuple((np.array(values) + spread * rng.uniform(-1, 1, len(values))).tolist())

        width, depth = about(112, 80, spread=3)
        top, diaphragm, right_dome, left_dome = about(120, -96, 64, 54, spread=4)
        heart, radii = about(-24, 20, -50, spread=4), about(54, 44, 52, spread=4)
        fields = (
            RandomField.draw(rng, length_mm=45, waves=12),
            RandomField.draw(rng, length_mm=25, waves=24),
            RandomField.draw(rng, length_mm=6, waves=48),
        )
        return cls(
            (width, depth),
            top,
            diaphragm,
            (right_dome, left_dome),
            (heart[0], heart[1], heart[2]),
            (radii[0], radii[1], radii[2]),
            *fields,
        )

    def depth(self, z: Tensor) -> Tensor:
        """Distance below the apex over the height of the lungs."""
        return (self.top - z) / _HEIGHT

    def narrowing(self, z: Tensor) -> Tensor:
        """The squared width of the cavity at height z: 1 far below the apex, 0 at it, negative
        above.
        """
        return torch.tanh(2.4 * self.depth(z))

    def straighten(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The point in the frame where the cavity is a straight cylinder; for points below the
        apex.
        """
        return torch.cat([points[:, :2] / self._width(points[:, 2:]), points[:, 2:]], 1)

    def bend(self, straight: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The inverse of ``straighten``."""
        return torch.cat([straight[:, :2] * self._width(straight[:, 2:]), straight[:, 2:]], 1)

    def _width(self, z: Tensor) -> Tensor:
        return self.narrowing(z).clamp(min=1e-3).sqrt()

    def cross_section(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The squared radius of (x, y) relative to the cavity's outline, 1 on it where the cavity
        is widest.
        """
        x, y = points[:, 0] / self.half_width[0], points[:, 1] / self.half_width[1]
        superellipse = (x.abs() ** _SQUARENESS + y.abs() ** _SQUARENESS + 1e-12) ** (
            2 / _SQUARENESS
        )
        backward = -y / (x**2 + y**2 + 1e-12).sqrt()
        return superellipse * (1 + _SPINE_NOTCH * torch.exp(20 * (backward - 1)))

    def cavity(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Negative in the cavity that slides along the chest wall."""
        return (
            (self.cross_section(points) - self.narrowing(points[:, 2])) * 0.5 * min(self.half_width)
        )

    def abdomen(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Negative below the two domes of the diaphragm."""
        x, y = points[:, 0] / self.half_width[0], points[:, 1] / self.half_width[1]
        slope = torch.exp(-(((y - 0.15) / 0.6) ** 2))
        right, left = (
            height * torch.exp(-(((x - side) / 0.42) ** 2)) * slope
            for height, side in zip(self.domes, (0.48, -0.48), strict=True)
        )
        return points[:, 2] - (self.diaphragm + right + left + 3 * self.undulation(points)[:, 0])

    def mediastinum(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Negative between the lungs: a slab with the great vessels in its middle, and the
        heart.
        """
        x, y, z = points.unbind(1)
        vessels = 16 * torch.exp(-(((y + 2) / 40) ** 2) - ((z - 25) / 70) ** 2)
        slab = (x**2 + 4).sqrt() - (13 + vessels + 3 * self.undulation(points)[:, 0])
        radii = points.new_tensor(self.heart_radii)
        heart = (((points - points.new_tensor(self.heart)) / radii).norm(dim=1) - 1) * radii.min()
        return -6 * torch.logaddexp(-slab / 6, -heart / 6)

    def lungs(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Negative in both lungs."""
        return torch.stack(
            [self.cavity(points), -self.abdomen(points), -self.mediastinum(points)]
        ).amax(0)

    def body(self, points: Float[Tensor, "n 3"], inset: float = 0.0) -> Float[Tensor, " n"]:
        """Negative ``inset`` mm or more beneath the skin."""
        shoulders = 8 * torch.sigmoid((points[:, 2] - 60) / 15)
        x, y = points[:, 0].abs() / (134 - inset + shoulders), points[:, 1].abs() / (106 - inset)
        return ((x**2.5 + y**2.5 + 1e-12) ** (1 / 2.5) - 1) * (106 - inset)

    def major_fissure(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Negative in the lower lobes: an oblique sheet, high at the back."""
        x, y, z = points.unbind(1)
        level = z + 18 + 0.95 * y - torch.where(x > 0, 0.0, 8.0) - 5 * self.undulation(points)[:, 0]
        return level / np.hypot(1, 0.95)

    def minor_fissure(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Negative below the horizontal sheet that parts the right upper lobe from the middle
        lobe.
        """
        return points[:, 2] - 8 + 0.1 * points[:, 1] - 5 * self.undulation(points.flip(1))[:, 0]

    def lobe(self, points: Float[Tensor, "n 3"]) -> Int[Tensor, " n"]:
        """0 right lower, 1 right middle, 2 right upper, 3 left lower, 4 left upper; for points in
        the lungs.
        """
        lower, right = self.major_fissure(points) < 0, points[:, 0] > 0
        upper = torch.where(self.minor_fissure(points) < 0, 1, 2)
        return torch.where(right, torch.where(lower, 0, upper), torch.where(lower, 3, 4))

    def parenchyma(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Density of lung tissue without its larger vessels, HU + 1000: heavier at the back, where
        a supine patient lies.
        """
        return (
            155
            - 0.3 * points[:, 1]
            + 12 * self.texture(points)[:, 0]
            + 12 * self.fine_texture(points)[:, 0]
        )

    def soft_tissue(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """HU of muscle and organs."""
        return 42 + 10 * self.texture(points)[:, 0]
