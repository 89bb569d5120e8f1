"""What a lesion is: where it lies, what it shows, and how the tissue around it has moved."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.phantoms.brain import Brain
from inrreg.phantoms.elastic import outward
from inrreg.phantoms.ellipsoids import Blob
from inrreg.phantoms.flows import Sampled, calibrated
from inrreg.phantoms.raster import coverage

LESION, RIM = 1, 2
"""Values of ``Lesion.parts``: a cavity or a tumour's core, and a tumour's rim."""


@dataclass(frozen=True, eq=False)
class Host:
    """A ``brain`` as it lies on the fixed grid before a lesion: its tissue and resectable regions
    there.
    """

    brain: Brain
    grid: Grid
    tissue: Int[Tensor, "*shape"]
    resectable: Int[Tensor, "*shape"]

    def points(self) -> Float[Tensor, "*shape d"]:
        """World position of every voxel."""
        return self.grid.points(torch.float64)


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion on the fixed grid.

    ``push`` is a velocity whose flow carries fixed points to where their tissue lay before the
    lesion, ``origin`` those points for all voxels.

    ``parts`` is 0 outside the lesion, else ``LESION`` or ``RIM``; ``share`` is how much of each
    voxel the lesion fills and ``value`` its intensity there; ``oedema`` (0 to 1) changes the
    intensity of tissue that is otherwise as it was.
    """

    push: Sampled
    origin: Float[Tensor, "*shape d"]
    parts: Int[Tensor, "*shape"]
    share: Float[Tensor, "*shape"]
    value: Float[Tensor, "*shape"]
    oedema: Float[Tensor, "*shape"]

    def over(self, tissue: Float[Tensor, "*shape"], factor: float) -> Float[Tensor, "*shape"]:
        """The lesion painted over ``tissue``, whose intensity full oedema multiplies by
        ``factor``.
        """
        swollen = tissue * (1 + (factor - 1) * self.oedema)
        return torch.lerp(swollen, self.value, self.share)


class Pathology(Protocol):
    """A kind of lesion, of which every draw is another one."""

    def grow(self, host: Host, rng: np.random.Generator) -> Lesion:
        """One lesion in ``host``."""


@dataclass(frozen=True)
class Healthy:
    """No lesion: tissue lies where it lay."""

    def grow(self, host: Host, rng: np.random.Generator) -> Lesion:
        """See ``Pathology``."""
        d = host.grid.ndim
        still = Sampled(
            torch.zeros(d, *[2] * d, dtype=torch.float64), host.grid.cropped((0,) * d, (2,) * d)
        )
        nothing = torch.zeros(host.grid.shape, dtype=torch.float64)
        return Lesion(still, host.points(), nothing.long(), nothing, nothing, nothing)


def inward_velocity(body: Blob, host: Host, motion_mm: float, rng: np.random.Generator) -> Sampled:
    """The velocity that moves the surface of ``body`` inwards by ``motion_mm`` in unit time.

    ``motion_mm`` is the average over the surface. The tissue around the body follows; its motion
    decreases towards the skull.

    Raises:
        InputError: the surface cannot move that far.
    """
    from scipy.ndimage import binary_erosion

    surface = body.inside & ~torch.from_numpy(binary_erosion(body.inside.numpy()))
    push = outward(body.inside, host.tissue > 0, host.grid)
    return calibrated(push, motion_mm, host.points()[surface], rng, time=-1.0).scaled(-1.0)


def soft_level(inside: Tensor, grid: Grid) -> Float[Tensor, "*shape"]:
    """A smooth level of a mask, negative inside, about the distance from its surface in mm."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    mask = inside.numpy()
    if not mask.any():
        raise AssertionError("a lesion without a voxel has no surface")
    distance = distance_transform_edt(~mask, sampling=grid.spacing) - distance_transform_edt(
        mask, sampling=grid.spacing
    )
    return torch.from_numpy(gaussian_filter(distance, 0.7))


def partial_volume(level: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Share of each voxel, 0 to 1, where ``level`` is negative; 0 at a level of 6 mm or more."""
    return coverage(level) * (level < 6)


def texture(
    shape: tuple[int, ...], mean: float, deviation: float, rng: np.random.Generator
) -> Float[Tensor, "*shape"]:
    """Noise of ``mean`` and ``deviation``, correlated over about two voxels; clipped at 0."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape), 0.8)
    return torch.from_numpy((mean + deviation * noise / noise.std()).clip(min=0))
