"""The bones of the chest wall: ribs, breast bone and spine, in the frame and state of
``anatomy``.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.phantoms.anatomy import Thorax
from inrreg.phantoms.raster import Tubes

_RIBS = 10
_SPINE_Y = -72.0


def rib_lines(thorax: Thorax) -> Float[Tensor, "ribs knots 3"]:
    """Centre lines of the ribs, mm: from the spine around the cavity, falling towards the front;
    right ones first.
    """
    angle = torch.linspace(-80, 62, 36, dtype=torch.float64).deg2rad()
    fall = 55 * torch.sin((angle - angle[0]) / (angle[-1] - angle[0]) * np.pi / 2) ** 2
    lines = [
        _around(thorax, angle, top - fall)
        for top in thorax.top - 12 - 24.0 * torch.arange(_RIBS, dtype=torch.float64)
    ]
    right = torch.stack(lines)
    return torch.cat([right, right * right.new_tensor([-1, 1, 1])])


def _around(thorax: Thorax, angle: Tensor, z: Tensor) -> Float[Tensor, "knots 3"]:
    """Points 8 mm outside the cavity in the directions ``angle`` at the heights ``z``."""
    direction = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)
    outline = direction * direction.new_tensor([*thorax.half_width, 0.0])
    radius = (thorax.narrowing(z).clamp(min=0.02) / thorax.cross_section(outline)).sqrt()
    outward = direction * 8
    return torch.cat([(outline * radius[:, None] + outward)[:, :2], z[:, None]], 1)


def ribs(thorax: Thorax) -> Tubes:
    """The ribs as tubes of 4.5 mm radius."""
    lines = rib_lines(thorax)
    starts, ends = lines[:, :-1].reshape(-1, 3), lines[:, 1:].reshape(-1, 3)
    return Tubes(starts, ends, torch.full((len(starts),), 4.5, dtype=torch.float64)).cut(4.0)


def sternum(points: Float[Tensor, "n 3"], thorax: Thorax) -> Float[Tensor, " n"]:
    """Negative in the breast bone."""
    x, y, z = points.unbind(1)
    front = thorax.half_width[1] * thorax.narrowing(z).clamp(min=0.35).sqrt() + 8
    return torch.stack([x.abs() - 14, (y - front).abs() - 5, (z - 5).abs() - 75]).amax(0)


def spine(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Negative in the vertebral column, its processes included."""
    x, y, _ = points.unbind(1)
    column = ((x / 17) ** 2 + ((y - _SPINE_Y) / 14) ** 2 + 1e-9).sqrt() * 15 - 15
    process = torch.stack([x.abs() - 3.5, (y - _SPINE_Y + 24).abs() - 8]).amax(0)
    arch = ((x / 30) ** 2 + ((y - _SPINE_Y + 18) / 5) ** 2 + 1e-9).sqrt() * 6 - 6
    canal = 8 - torch.hypot(x, y - _SPINE_Y + 20)
    return torch.maximum(torch.stack([column, process, arch]).amin(0), canal)


def spine_hu(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """HU of vertebrae, 24 mm apart, and the discs between them."""
    return 90 + 230 * torch.sigmoid(6 * torch.cos(2 * np.pi * points[:, 2] / 24) + 4)
