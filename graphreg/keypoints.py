"""Keypoint detectors for a discrete search.

The Foerstner detector finds distinctive points; random and regular ones are baselines.

A detector is a callable ``(image, mask, generator) -> points [n, d]`` in world mm; mask == 1 means
"use this".
"""

import logging
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.core.settings_checks import check_above_zero, check_count, check_not_negative
from inrreg.ops.blur import blurred
from inrreg.ops.farthest_points import farthest_points, points_between
from inrreg.ops.masks import dilated

log = logging.getLogger(__name__)

_CANDIDATES = 20_000
"""Voxels that ``FilledKeypoints`` chooses from: more only take longer."""
_ROUNDING = 1e-10
"""Of the largest intensity squared, per mm^2: a response below is rounding, as resampling a
constant image leaves.
"""


class Detector(Protocol):
    """Chooses keypoints of an image inside a mask (1 = use).

    Random choices come from ``generator``, which is on the CPU.
    """

    def __call__(
        self, image: Image, mask: Image, generator: torch.Generator
    ) -> Float[Tensor, "n d"]: ...


@dataclass(frozen=True)
class Foerstner:
    """The ``count`` best spread of the corners and blobs found by the Foerstner operator, none
    nearer to another than ``spacing_mm`` along every axis.

    The structure tensor is taken over a Gaussian of ``sigma_mm``, the mask is shrunk by
    ``erosion_mm`` first, so that its own edge is no keypoint; maxima whose response is below
    ``threshold`` times the median one are noise.

    Raises:
        InputError: when called, on an image without structure, or a mask too small to hold a
            keypoint.
    """

    count: int = 2000
    spacing_mm: float = 6.0
    sigma_mm: float = 2.0
    erosion_mm: float = 2.0
    threshold: float = 0.01

    def __post_init__(self) -> None:
        check_count(self, "count")
        check_above_zero(self, "spacing_mm", "sigma_mm")
        check_not_negative(self, "erosion_mm", "threshold")

    def __call__(
        self, image: Image, mask: Image, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        eroded = eroded_mask(mask, self.erosion_mm)
        response = foerstner_response(image, self.sigma_mm)
        response = torch.where(response > _ROUNDING * image.data.square().max(), response, 0.0)
        peaks = local_maxima(response, eroded, self.spacing_mm, self.threshold)
        if len(peaks) == 0:
            raise InputError(
                f"{image.name} has no keypoint inside {mask.name}: it shows no structure there that"
                " differs from its surroundings; check both, or use RegularKeypoints"
            )
        points = image.grid.to_world(peaks.to(torch.float32))
        # on the CPU, so that ties do not depend on the device
        chosen = farthest_points(points.cpu(), self.count).to(points.device)
        log.info(
            "keypoints: %d local maxima of the Foerstner response, %d kept",
            len(points),
            len(chosen),
        )
        return points[chosen]


@dataclass(frozen=True)
class RandomKeypoints:
    """``count`` distinct random voxel centres of the shrunk mask, as a baseline for a detector.

    Raises:
        InputError: when called, on a mask too small to hold a keypoint.
    """

    count: int = 2000
    erosion_mm: float = 2.0

    def __post_init__(self) -> None:
        check_count(self, "count")
        check_not_negative(self, "erosion_mm")

    def __call__(
        self, image: Image, mask: Image, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        voxels = (eroded_mask(mask, self.erosion_mm).data[0] > 0.5).nonzero()
        chosen = torch.randperm(len(voxels), generator=generator)[: self.count].to(voxels.device)
        return mask.grid.to_world(voxels[chosen].to(torch.float32))


@dataclass(frozen=True)
class RegularKeypoints:
    """Every point of a lattice of ``spacing_mm`` that lies in the shrunk mask: keypoints where
    nothing stands out.

    Raises:
        InputError: when called, on a mask too small to hold a keypoint.
    """

    spacing_mm: float = 10.0
    erosion_mm: float = 2.0

    def __post_init__(self) -> None:
        check_above_zero(self, "spacing_mm")
        check_not_negative(self, "erosion_mm")

    def __call__(
        self, image: Image, mask: Image, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        eroded = eroded_mask(mask, self.erosion_mm)
        strides = np.maximum(np.round(self.spacing_mm / mask.grid.spacing), 1).astype(int).tolist()
        chosen = torch.zeros_like(eroded.data[0], dtype=torch.bool)
        chosen[
            tuple(
                slice(min(s // 2, n - 1), None, s)
                for s, n in zip(strides, mask.grid.shape, strict=True)
            )
        ] = True
        voxels = (chosen & (eroded.data[0] > 0.5)).nonzero()
        if len(voxels) == 0:
            raise InputError(
                f"{mask.name} holds no point of a lattice of {self.spacing_mm:g} mm; give a smaller"
                " spacing_mm or a larger mask"
            )
        return mask.grid.to_world(voxels.to(torch.float32))


@dataclass(frozen=True)
class FilledKeypoints:
    """What ``detector`` finds and, up to ``count`` in all, voxel centres spread between, none
    nearer than ``gap_mm`` to another keypoint.

    Where nothing stands out the tissue moves too, and a map that is drawn there from keypoints far
    away may be wrong by as much as neighbours differ in motion.

    Raises:
        InputError: when called, as ``detector`` does, or on a mask too small to hold a keypoint.
    """

    detector: Detector = field(default_factory=Foerstner)
    count: int = 2000
    gap_mm: float = 5.0
    erosion_mm: float = 2.0

    def __post_init__(self) -> None:
        check_count(self, "count", least=0)
        check_above_zero(self, "gap_mm")
        check_not_negative(self, "erosion_mm")

    def __call__(
        self, image: Image, mask: Image, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        found = self.detector(image, mask, generator)
        between = RandomKeypoints(_CANDIDATES, self.erosion_mm)(image, mask, generator)
        # on the CPU, so that ties do not depend on the device
        room = max(0, self.count - len(found))
        chosen = points_between(between.cpu(), found.cpu(), room, self.gap_mm).to(between.device)
        log.info("keypoints: %d between them", len(chosen))
        return torch.cat([found, between[chosen]])


def eroded_mask(mask: Image, erosion_mm: float) -> Image:
    """``mask`` shrunk by ``erosion_mm``.

    Raises:
        InputError: nothing is left of it.
    """
    eroded = dilated(mask, -erosion_mm)
    if not bool((eroded.data > 0.5).any()):
        raise InputError(
            f"{mask.name} is too small for keypoints: shrunk by {erosion_mm:g} mm nothing is left"
            " of it; give a larger mask or a smaller erosion_mm"
        )
    return eroded


def foerstner_response(image: Image, sigma_mm: float) -> Float[Tensor, "*shape"]:
    """1 / trace(S^-1) of the structure tensor S of the image, smoothed by ``sigma_mm``: high where
    the image varies along every direction (Foerstner and Guelch, 1987).
    """
    d, spacing = image.grid.ndim, [float(h) for h in image.grid.spacing]
    along = torch.stack(torch.gradient(image.data[0], spacing=spacing, dim=list(range(d))))
    entries = [(a, b) for a in range(d) for b in range(a, d)]
    products = torch.stack([along[a] * along[b] for a, b in entries])
    s = dict(zip(entries, blurred(products, image.grid, sigma_mm), strict=True))
    if d == 2:
        return _quotient(s[0, 0] * s[1, 1] - s[0, 1] ** 2, s[0, 0] + s[1, 1])
    minors = (
        s[1, 1] * s[2, 2] - s[1, 2] ** 2,
        s[0, 0] * s[2, 2] - s[0, 2] ** 2,
        s[0, 0] * s[1, 1] - s[0, 1] ** 2,
    )
    determinant = (
        s[0, 0] * minors[0]
        - s[0, 1] * (s[0, 1] * s[2, 2] - s[1, 2] * s[0, 2])
        + s[0, 2] * (s[0, 1] * s[1, 2] - s[1, 1] * s[0, 2])
    )
    return _quotient(determinant, minors[0] + minors[1] + minors[2])


def _quotient(determinant: Tensor, minors: Tensor) -> Tensor:
    """0 where the tensor is singular, as in a constant image."""
    return torch.where(minors > 0, determinant.clamp(min=0) / minors.clamp(min=1e-30), 0.0)


def local_maxima(
    response: Float[Tensor, "*shape"], mask: Image, spacing_mm: float, threshold: float = 0.0
) -> Tensor:
    """Voxels ``[n, d]`` inside ``mask`` whose response is the largest of all nearer than
    ``spacing_mm`` along every axis, and above ``threshold`` times the median one in the mask.
    """
    inside = mask.data[0] > 0.5
    radii = [max(1, int(np.ceil(spacing_mm / h - 1e-6)) - 1) for h in mask.grid.spacing]
    masked = torch.where(inside, response, 0.0)
    largest = masked
    for axis, radius in enumerate(radii):
        largest = (
            F.max_pool1d(
                largest.movedim(axis, -1).flatten(0, -2), 2 * radius + 1, stride=1, padding=radius
            )
            .reshape(largest.movedim(axis, -1).shape)
            .movedim(-1, axis)
        )
    floor = threshold * float(masked[inside].median()) if bool(inside.any()) else 0.0
    return ((masked == largest) & (masked > floor) & (masked > 0)).nonzero()
