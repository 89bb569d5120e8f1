"""The cavity that a resection leaves: tissue is gone, something else is there, and the walls have
come in a little.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.image import LabelImage
from inrreg.ops.sampling import nearest
from inrreg.phantoms.brain import GREY, WHITE
from inrreg.phantoms.ellipsoids import blob, draw_volume, largest_piece, radius_of
from inrreg.phantoms.flows import Sampled, follow
from inrreg.phantoms.lesion_pairs import (
    LESION,
    Host,
    Lesion,
    inward_velocity,
    partial_volume,
    soft_level,
    texture,
)

_SMALLEST_CM3 = 3.0
"""Of the removed tissue, so that more than 1 cm3 of cavity is left after its walls came in."""


_AROUND_MM = 6.0
"""How far the surroundings of a cavity reach."""


class Filling(Protocol):
    """What a cavity shows."""

    def __call__(
        self,
        host: Host,
        cavity: Bool[Tensor, "*shape"],
        tissue: Int[Tensor, "*shape"],
        rng: np.random.Generator,
    ) -> Float[Tensor, "*shape"]:
        """Intensity at every voxel of the ``host``, of which those in the ``cavity`` count;
        ``tissue`` is the kind that each voxel outside it shows.
        """
        ...


class Fluid:
    """The brain's own fluid, as in the middle of its ventricles."""

    def __call__(
        self,
        host: Host,
        cavity: Bool[Tensor, "*shape"],
        tissue: Int[Tensor, "*shape"],
        rng: np.random.Generator,
    ) -> Float[Tensor, "*shape"]:
        """See ``Filling``."""
        return texture(host.grid.shape, *host.brain.fluid(), rng)


class Isointense:
    """As bright as the grey and white matter within 6 mm of the cavity is on average: blood of a
    certain age, a graft, or fluid in an unlucky contrast. Its texture is that of fluid.
    """

    def __call__(
        self,
        host: Host,
        cavity: Bool[Tensor, "*shape"],
        tissue: Int[Tensor, "*shape"],
        rng: np.random.Generator,
    ) -> Float[Tensor, "*shape"]:
        """See ``Filling``."""
        from scipy.ndimage import distance_transform_edt

        near = (
            torch.from_numpy(
                distance_transform_edt(~cavity.numpy(), sampling=host.grid.spacing) <= _AROUND_MM
            )
            & ~cavity
        )
        counts = [int((tissue[near] == kind).sum()) for kind in (GREY, WHITE)]
        mean = sum(
            n * host.brain.mean(kind) for n, kind in zip(counts, (GREY, WHITE), strict=True)
        ) / max(sum(counts), 1)
        return texture(host.grid.shape, mean, host.brain.fluid()[1], rng)


@dataclass(frozen=True)
class Resection:
    """Tissue about a point of the cortex is removed; the walls of the cavity then come in by a
    share of its radius drawn from ``collapse``, on average over them.

    ``volume_cm3`` is that of the removed tissue, ``None`` draws it. The fixed image shows the
    cavity, which is smaller; the tissue around it maps outwards to where it lay. ``filling`` is
    what it shows: ``Fluid()``, or ``Isointense()``, which intensity hardly tells from the tissue
    around it.
    """

    volume_cm3: float | None = None
    collapse: tuple[float, float] = (0.05, 0.15)
    filling: Filling = field(default_factory=Fluid)

    def __post_init__(self) -> None:
        if not 0 <= self.collapse[0] <= self.collapse[1] <= 0.4:
            raise InputError(
                f"the walls of a cavity come in by 0 to 0.4 of its radius, got {self.collapse}"
            )

    def grow(self, host: Host, rng: np.random.Generator) -> Lesion:
        """See ``Pathology``."""
        regions = host.resectable[host.resectable > 0].unique()
        tissue = host.resectable == regions[int(rng.integers(len(regions)))]
        cortex = host.points()[tissue & (host.tissue == GREY)]
        volume = draw_volume(rng, _SMALLEST_CM3) if self.volume_cm3 is None else self.volume_cm3
        removed = blob(host.grid, cortex[int(rng.integers(len(cortex)))], volume, tissue, rng)
        radius = radius_of(volume)
        push = inward_velocity(removed, host, radius * rng.uniform(*self.collapse), rng).scaled(
            -1.0
        )
        origin = follow(push, host.points())
        level = Sampled.of(soft_level(removed.inside, host.grid)[..., None], host.grid)(origin)[
            ..., 0
        ]
        cavity = largest_piece(level < 0)
        level = torch.where(cavity, level, level.abs())
        tissue = nearest(LabelImage.from_array(host.tissue, host.grid), origin)[0]
        value = self.filling(host, cavity, tissue, rng)
        return Lesion(
            push,
            origin,
            torch.where(cavity, LESION, 0),
            partial_volume(level),
            value,
            torch.zeros_like(value),
        )
