"""Where a discrete search looks: points of the fixed image that can be told from their
surroundings, and plainer choices to compare with.

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
from inrreg.ops.masks import dilated
from inrreg.ops.sampling import smoothed

log = logging.getLogger(__name__)

_CANDIDATES = 20_000
"""Voxels that ``Filled`` chooses from: more only take longer."""
_SIFTED = 32
"""Choices on a GPU after which ``points_between`` looks again which points may still be chosen."""
_ROUNDING = 1e-10
"""Of the largest intensity squared, per mm^2: a response below is rounding, as resampling a
constant image leaves.
"""


class Detector(Protocol):
    """Chooses keypoints of an image inside a mask (1 = use); random ones come from ``generator``,
    which lives on the CPU.
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
        chosen = farthest_points(points, self.count)
        log.info(
            "keypoints: %d local maxima of the Foerstner response, %d kept",
            len(points),
            len(chosen),
        )
        return points[chosen]


@dataclass(frozen=True)
class RandomKeypoints:
    """``count`` voxel centres drawn evenly from the shrunk mask, each once: the baseline of a
    detector.

    Raises:
        InputError: when called, on a mask too small to hold a keypoint.
    """

    count: int = 2000
    erosion_mm: float = 2.0

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
class Filled:
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

    def __call__(
        self, image: Image, mask: Image, generator: torch.Generator
    ) -> Float[Tensor, "n d"]:
        found = self.detector(image, mask, generator)
        between = RandomKeypoints(_CANDIDATES, self.erosion_mm)(image, mask, generator)
        chosen = points_between(between, found, max(0, self.count - len(found)), self.gap_mm)
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
    s = dict(zip(entries, _blurred(image.with_data(products), sigma_mm), strict=True))
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


def _blurred(image: Image, sigma_mm: float) -> Float[Tensor, "c *shape"]:
    """By a Gaussian of ``sigma_mm``; on a CPU in a compiled loop."""
    if image.device.type != "cpu":
        return smoothed(image, sigma_mm).data
    from inrreg.ops.loops.blur import blurred

    return blurred(image.data, image.grid, sigma_mm)


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


def farthest_points(points: Float[Tensor, "n d"], count: int) -> Tensor:
    """Indices of ``count`` points far from each other (all where there are fewer): the one nearest
    to the middle, then each time the one farthest from those chosen (Eldar et al., 1997).
    """
    if len(points) <= count:
        return torch.arange(len(points), device=points.device)
    middle = (points - points.mean(0)).square().sum(1).argmin()[None]
    return torch.cat([middle, points_between(points, points[middle], max(count - 1, 0), 0.0)])[
        :count
    ]


def points_between(
    points: Float[Tensor, "n d"], others: Float[Tensor, "m d"], count: int, gap_mm: float
) -> Tensor:
    """Indices of up to ``count`` of ``points``, each time the one farthest from ``others`` and from
    those chosen, as long as that is ``gap_mm`` or more.
    """
    if len(points) == 0:
        return torch.arange(0, device=points.device)
    return (
        _between_by_loops(points, others, count, gap_mm)
        if points.device.type == "cpu"
        else _between(points, others, count, gap_mm)
    )


def _between_by_loops(
    points: Float[Tensor, "n d"], others: Float[Tensor, "m d"], count: int, gap_mm: float
) -> Tensor:
    from inrreg.ops.loops.farthest import choose_farthest

    chosen = np.empty(min(count, len(points)), np.int64)
    deep = (0, 3 - points.shape[1])  # points in a plane lie in one layer
    number = choose_farthest(
        *(
            F.pad(p.detach(), deep).T.contiguous().numpy()
            for p in (points, others.to(points.dtype))
        ),
        gap_mm,
        chosen,
    )
    return torch.from_numpy(chosen[:number])


def _between(
    points: Float[Tensor, "n d"], others: Float[Tensor, "m d"], count: int, gap_mm: float
) -> Tensor:
    distance = torch.cdist(points, others, compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    left = torch.arange(len(points), device=points.device)
    chosen = list[Tensor]()
    while len(chosen) < count:
        # what has come nearer than the gap is never chosen
        if gap_mm > 0 and len(chosen) % _SIFTED == 0:
            far = distance >= gap_mm
            left, points, distance = left[far], points[far], distance[far]
            if len(left) == 0:
                break
        farthest, index = distance.max(0)
        if gap_mm > 0 and farthest < gap_mm:
            break
        chosen.append(left[index])
        distance = torch.minimum(distance, (points - points[index]).norm(dim=1))
    return torch.stack(chosen) if chosen else left[:0]
