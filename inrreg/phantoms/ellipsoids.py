"""The shape of a lesion: an ellipsoid whose surface is displaced by noise of several octaves, cut to the tissue it may lie in.

After the resection simulator of Perez-Garcia et al. (MICCAI 2020; IJCARS 2021), which displaces a mesh; here the same body is an implicit function on the voxels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrreg.errors import InputError
from inrreg.phantoms.random_field import RandomField
from inrreg.space import Grid

SMALLEST_CM3, LARGEST_CM3 = 1.0, 40.0
_LOCATION_CM3, _SPREAD = 24.0, 0.845
"""Of the logarithmic normal: the quartiles of 133 resection cavities (EPISURG: 10.1, 18.1, 31.6 cm3) have this spread, and cut to 1 to 40 cm3 the median is again 18."""
_OCTAVES, _WAVE = 4, 1.1
"""Octaves of the noise, and the length of the first, in radii."""
_BUMPS = 0.3
"""Largest displacement of the surface, in radii."""


@dataclass(frozen=True, eq=False)
class Blob:
    """Voxels ``inside`` a lesion of ``radius_mm``, and ``level``: the noisy distance from the centre that is ``radius_mm`` at the surface of the uncut body, mm."""

    inside: Bool[Tensor, "*shape"]
    level: Float[Tensor, "*shape"]
    radius_mm: float


def draw_volume(rng: np.random.Generator, smallest: float = SMALLEST_CM3, largest: float = LARGEST_CM3) -> float:
    """A lesion's volume in cm3, between ``smallest`` and ``largest``."""
    while True:
        volume = float(rng.lognormal(np.log(_LOCATION_CM3), _SPREAD))
        if smallest <= volume <= largest:
            return volume


def blob(grid: Grid, center: Float[Tensor, "3"], volume_cm3: float, tissue: Bool[Tensor, "*shape"], rng: np.random.Generator) -> Blob:
    """The lesion about a world point of which ``volume_cm3`` lie in ``tissue``; pieces that the cut leaves apart from the largest are dropped.

    Raises:
        InputError: the tissue is smaller than the lesion.
    """
    voxel = float(np.prod(grid.spacing)) / 1000
    wanted = round(volume_cm3 / voxel)
    level = _noisy_distance(grid, center, rng)
    if not 0 < wanted < int(tissue.sum()):
        raise InputError(f"a lesion of {volume_cm3:g} cm3 does not fit: its tissue has {voxel * int(tissue.sum()):.3g} cm3, in voxels of {voxel:.2g}; ask for another size or give more tissue")
    radius = float(level[tissue].kthvalue(wanted).values)
    return Blob(largest_piece((level <= radius) & tissue), level, radius)


def largest_piece(mask: Bool[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
    """The largest of the pieces of ``mask`` that hang together by faces."""
    from scipy.ndimage import label

    pieces, _ = label(mask.numpy())
    sizes = np.bincount(pieces.reshape(-1))
    sizes[0] = 0
    return torch.from_numpy(pieces == sizes.argmax()) & mask


def _noisy_distance(grid: Grid, center: Float[Tensor, "3"], rng: np.random.Generator) -> Float[Tensor, "*shape"]:
    """|q| / (1 + noise(q / |q|)), q the point in the turned frame of an ellipsoid of semi-axes 1, b, 1 / b with b in 1 ... 2, mm."""
    from scipy.spatial.transform import Rotation

    longest = rng.uniform(1.0, 2.0)
    turn = torch.from_numpy(Rotation.random(rng=rng).as_matrix())
    q = (grid.points(torch.float64) - center) @ turn / torch.tensor([1.0, longest, 1 / longest], dtype=torch.float64)
    distance = q.norm(dim=-1).clamp(min=1e-6)
    octaves = [RandomField.draw(rng, _WAVE / 2**k) for k in range(_OCTAVES)]
    direction = q / distance[..., None]
    noise = torch.stack([field(direction)[..., 0] / 2**k for k, field in enumerate(octaves)]).sum(0)
    return distance / (1 + _BUMPS * torch.tanh(0.6 * noise))
