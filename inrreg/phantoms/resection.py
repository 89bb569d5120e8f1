"""The cavity that a resection leaves: tissue is gone, fluid is there, and the walls have come in a little."""

from dataclasses import dataclass

import numpy as np
import torch

from inrreg.errors import InputError
from inrreg.phantoms.brain import GREY
from inrreg.phantoms.ellipsoids import blob, draw_volume, largest_piece
from inrreg.phantoms.flows import Sampled, follow
from inrreg.phantoms.lesions import LESION, Host, Lesion, filled, shrinking, soft, texture

_SMALLEST_CM3 = 3.0
"""Of the removed tissue, so that more than 1 cm3 of cavity is left after its walls came in."""


@dataclass(frozen=True)
class Resection:
    """Tissue about a point of the cortex is removed; the walls of the cavity then come in by a share of its radius drawn from ``collapse``, on average over them.

    ``volume_cm3`` is that of the removed tissue, ``None`` draws it. The fixed image shows the cavity, which is smaller; the tissue around it maps outwards to where it lay.
    """

    volume_cm3: float | None = None
    collapse: tuple[float, float] = (0.05, 0.15)

    def __post_init__(self) -> None:
        if not 0 <= self.collapse[0] <= self.collapse[1] <= 0.4:
            raise InputError(f"the walls of a cavity come in by 0 to 0.4 of its radius, got {self.collapse}")

    def grow(self, host: Host, rng: np.random.Generator) -> Lesion:
        """See ``Pathology``."""
        regions = host.resectable[host.resectable > 0].unique()
        tissue = host.resectable == regions[int(rng.integers(len(regions)))]
        cortex = host.points()[tissue & (host.tissue == GREY)]
        volume = draw_volume(rng, _SMALLEST_CM3) if self.volume_cm3 is None else self.volume_cm3
        removed = blob(host.grid, cortex[int(rng.integers(len(cortex)))], volume, tissue, rng)
        radius = float(np.cbrt(3000 * volume / (4 * np.pi)))
        push = shrinking(removed, host, radius * rng.uniform(*self.collapse), rng).scaled(-1.0)
        origin = follow(push, host.points())
        level = Sampled.of(soft(removed.inside, host.grid)[..., None], host.grid)(origin)[..., 0]
        cavity = largest_piece(level < 0)
        level = torch.where(cavity, level, level.abs())
        value = texture(host.grid.shape, *host.brain.fluid(), rng)
        return Lesion(push, origin, torch.where(cavity, LESION, 0), filled(level), value, torch.zeros_like(value))
