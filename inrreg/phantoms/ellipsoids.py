"""The shape of a lesion: an ellipsoid whose surface is displaced by noise of several octaves, cut
to the tissue it may lie in.

After the resection simulator of Perez-Garcia et al. (MICCAI 2020; IJCARS 2021), which displaces a
mesh; here the same body is an implicit function on the voxels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.phantoms.random_field import RandomField

SMALLEST_CM3, LARGEST_CM3 = 1.0, 40.0
_LOCATION_CM3, _SPREAD = 24.0, 0.845
"""Of the logarithmic normal: the quartiles of 133 resection cavities (EPISURG: 10.1, 18.1, 31.6
cm3) have this spread, and cut to 1 to 40 cm3 the median is again 18.
"""
_OCTAVES, _WAVE = 4, 1.1
"""Octaves of the noise, and the length of the first, in radii."""
_BUMPS = 0.3
"""Largest displacement of the surface, in radii."""


@dataclass(frozen=True, eq=False)
class Blob:
    """Voxels ``inside`` a lesion of ``radius_mm``, and ``level``: the noisy distance from the
    centre that is ``radius_mm`` at the surface of the uncut body, mm.
    """

    inside: Bool[Tensor, "*shape"]
    level: Float[Tensor, "*shape"]
    radius_mm: float


def draw_volume(
    rng: np.random.Generator, smallest: float = SMALLEST_CM3, largest: float = LARGEST_CM3
) -> float:
    """A lesion's volume in cm3, between ``smallest`` and ``largest``."""
    while True:
        volume = float(rng.lognormal(np.log(_LOCATION_CM3), _SPREAD))
        if smallest <= volume <= largest:
            return volume


def radius_of(volume_cm3: float) -> float:
    """Radius of a ball, mm."""
    return float(np.cbrt(3000 * volume_cm3 / (4 * np.pi)))


def blob(
    grid: Grid,
    center: Float[Tensor, " d"],
    volume_cm3: float,
    tissue: Bool[Tensor, "*shape"],
    rng: np.random.Generator,
) -> Blob:
    """The lesion about a world point of which ``volume_cm3`` lie in ``tissue`` (in 2-D the area of
    the middle section of such a ball); pieces that the cut leaves apart from the largest are
    dropped.

    Raises:
        InputError: the tissue is smaller than the lesion.
    """
    wanted = round(_size(volume_cm3, grid) / float(np.prod(grid.spacing)))
    level = _noisy_distance(grid, center, rng)
    if not 0 < wanted < int(tissue.sum()):
        raise InputError(
            f"a lesion of {volume_cm3:g} cm3 does not fit: it has {wanted} voxels and its tissue"
            f" {int(tissue.sum())}; ask for another size or give more tissue"
        )
    radius = float(level[tissue].kthvalue(wanted).values)
    return Blob(largest_piece((level <= radius) & tissue), level, radius)


def _size(volume_cm3: float, grid: Grid) -> float:
    """Volume in mm3, or in 2-D the area of the ball's middle section in mm2."""
    return 1000 * volume_cm3 if grid.ndim == 3 else float(np.pi) * radius_of(volume_cm3) ** 2


def largest_piece(mask: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """The largest of the pieces of ``mask`` that hang together by faces."""
    from scipy.ndimage import label

    pieces, _ = label(mask.numpy())
    sizes = np.bincount(pieces.reshape(-1))
    sizes[0] = 0
    return torch.from_numpy(pieces == sizes.argmax()) & mask


def _noisy_distance(
    grid: Grid, center: Float[Tensor, " d"], rng: np.random.Generator
) -> Float[Tensor, "*shape"]:
    """|q| / (1 + noise(q / |q|)), q the point in the turned frame of an ellipsoid of semi-axes 1,
    b, 1 / b with b in 1 ... 2 (an ellipse of sqrt b, 1 / sqrt b), mm.
    """
    longest = rng.uniform(1.0, 2.0)
    axes = [1.0, longest, 1 / longest] if grid.ndim == 3 else [longest**0.5, longest**-0.5]
    q = (
        (grid.points(torch.float64) - center)
        @ _turn(grid.ndim, rng)
        / torch.tensor(axes, dtype=torch.float64)
    )
    distance = q.norm(dim=-1).clamp(min=1e-6)
    octaves = [RandomField.draw(rng, _WAVE / 2**k, ndim=grid.ndim) for k in range(_OCTAVES)]
    direction = q / distance[..., None]
    noise = torch.stack([field(direction)[..., 0] / 2**k for k, field in enumerate(octaves)]).sum(0)
    return distance / (1 + _BUMPS * torch.tanh(0.6 * noise))


def _turn(ndim: int, rng: np.random.Generator) -> Float[Tensor, "d d"]:
    """A random rotation."""
    from scipy.spatial.transform import Rotation

    if ndim == 3:
        return torch.from_numpy(Rotation.random(rng=rng).as_matrix())
    angle = rng.uniform(0, np.pi)
    return torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
