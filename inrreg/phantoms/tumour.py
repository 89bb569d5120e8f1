"""A tumour that has grown from a seed: it pushes the brain aside, has a bright rim about a dark
core, and lies in oedema.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.image import LabelImage
from inrreg.ops.sampling import nearest
from inrreg.phantoms.brain import GREY, WHITE
from inrreg.phantoms.ellipsoids import Blob, blob, draw_volume, radius_of
from inrreg.phantoms.flows import follow
from inrreg.phantoms.lesion_pairs import (
    LESION,
    RIM,
    Host,
    Lesion,
    inward_velocity,
    partial_volume,
    soft_level,
    texture,
)
from inrreg.phantoms.random_field import RandomField

_TO_SKULL_MM = 4.0
"""What stays between a tumour and the skull, at least: there the tissue that was in the way is."""
_SMALLEST_CM3 = 1.5
_LARGEST_PUSH = 0.4
"""Over the radius: beyond it a flat tumour's seed gets smaller than a voxel."""
_SWELLING = {GREY: 0.35, WHITE: 1.0}
"""How much oedema each tissue takes up."""


@dataclass(frozen=True)
class Tumour:
    """Tissue around a point of white matter is pushed outwards, at the tumour's surface by a length
    drawn from ``push_mm`` (but by no more than 0.4 of its radius), on average over it.

    ``volume_cm3`` is that of core and rim, ``None`` draws it; ``core`` is the core's radius over
    the tumour's; oedema reaches ``oedema_mm`` beyond the rim, more or less.
    """

    volume_cm3: float | None = None
    push_mm: tuple[float, float] = (3.0, 10.0)
    core: float = 0.72
    oedema_mm: tuple[float, float] = (8.0, 18.0)

    def __post_init__(self) -> None:
        if not (
            0 <= self.push_mm[0] <= self.push_mm[1]
            and 0 < self.core < 1
            and 0 < self.oedema_mm[0] <= self.oedema_mm[1]
        ):
            raise InputError(
                "a tumour pushes by 0 mm or more, has a core of 0 to 1 of its radius and oedema"
                f" about it, got {self}"
            )

    def grow(self, host: Host, rng: np.random.Generator) -> Lesion:
        """See ``Pathology``."""
        volume = draw_volume(rng, _SMALLEST_CM3) if self.volume_cm3 is None else self.volume_cm3
        radius = radius_of(volume)
        body = blob(host.grid, _seed(host, radius, rng), volume, _within(host, _TO_SKULL_MM), rng)
        largest = min(self.push_mm[1], _LARGEST_PUSH * radius)
        push = inward_velocity(body, host, rng.uniform(min(self.push_mm[0], largest), largest), rng)
        origin = follow(push, host.points())
        level = soft_level(body.inside, host.grid)
        in_core = body.inside & (level < -1.0) & (body.level < self.core * body.radius_mm)
        parts = torch.where(in_core, LESION, torch.where(body.inside, RIM, 0))
        oedema = _oedema(host, origin, level, rng.uniform(*self.oedema_mm), rng) * ~body.inside
        return Lesion(
            push, origin, parts, partial_volume(level), self._value(host, body, rng), oedema
        )

    def _value(self, host: Host, body: Blob, rng: np.random.Generator) -> Float[Tensor, "*shape"]:
        """Intensities of core and rim."""
        white, look = host.brain.mean(WHITE), host.brain.contrast
        core = partial_volume(body.level - self.core * body.radius_mm)
        rim, necrosis = (
            texture(host.grid.shape, mean * white, 0.07 * white, rng)
            for mean in (look.rim, look.core)
        )
        return torch.lerp(rim, necrosis, core)


def _seed(host: Host, radius: float, rng: np.random.Generator) -> Float[Tensor, " d"]:
    """A point of white matter with room around it.

    Raises:
        InputError: there is none.
    """
    regions = host.resectable[host.resectable > 0].unique()
    region = host.resectable == regions[int(rng.integers(len(regions)))]
    candidates = host.points()[
        region & (host.tissue == WHITE) & _within(host, 0.6 * radius + _TO_SKULL_MM)
    ]
    if not len(candidates):
        raise InputError(
            f"no white matter lies far enough from the skull for a tumour of radius {radius:.3g}"
            " mm; ask for a smaller volume"
        )
    return candidates[int(rng.integers(len(candidates)))]


def _within(host: Host, depth_mm: float) -> Bool[Tensor, "*shape"]:
    """Voxels deeper than ``depth_mm`` below the skull."""
    from scipy.ndimage import distance_transform_edt

    return torch.from_numpy(
        distance_transform_edt((host.tissue > 0).numpy(), sampling=host.grid.spacing) > depth_mm
    )


def _oedema(
    host: Host,
    origin: Float[Tensor, "*shape d"],
    level: Float[Tensor, "*shape"],
    reach_mm: float,
    rng: np.random.Generator,
) -> Float[Tensor, "*shape"]:
    """Full at the rim, none from an uneven ``reach_mm`` on; in the tissue that takes it up, where
    the push has left it.
    """
    from scipy.ndimage import gaussian_filter

    uneven = reach_mm * torch.exp(
        0.35 * torch.tanh(RandomField.draw(rng, 15.0, ndim=host.grid.ndim)(host.points())[..., 0])
    )
    graded = 0.5 * (1 + torch.cos(np.pi * (level / uneven).clamp(0, 1)))
    tissue = nearest(LabelImage.from_array(host.tissue, host.grid), origin)[0]
    takes = torch.stack(
        [share * (tissue == kind).double() for kind, share in _SWELLING.items()]
    ).sum(0)
    return graded * torch.from_numpy(gaussian_filter(takes.numpy(), 0.6))
