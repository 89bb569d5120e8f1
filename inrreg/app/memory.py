"""How much memory a registration will need at its peak, known before it is run.

What is counted: ``BASE_MB`` for the libraries; the images as they were given and as the stages see
them, and the masks, all of which are held to the end; and whichever is the most of

- the finest level of a fit, cropped to the mask as a ``Registration`` crops it: ``LEVEL_BYTES`` a
  voxel, and ``CHANNEL_BYTES`` for each further contrast, and its mask, uncropped. Where it is
  fitted both ways, both levels, for two threads do so at once;
- a discrete search: features of both images at every site of its grid, and cost volumes of
  keypoints x labels;
- measuring and writing on the fixed grid: ``MEASURING_BYTES`` a voxel.

The figures a voxel are measured peaks of registrations with compiled loops on a CPU, a little
rounded up.
"""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis import NonCorrespondence
from inrreg.ops.masks import bounding_box
from inrreg.presets import Preset
from inrreg.stages.both_directions import BothDirections
from inrreg.stages.gradient_registration import Scale

BASE_MB = 520
"""Python, torch and the other libraries, compiled loops among them."""
LEVEL_BYTES, CHANNEL_BYTES, MEASURING_BYTES = 160, 50, 100
"""A voxel, above the images."""
FEATURES, OTHER_VOLUMES = 12, 6
"""Channels of the features that are compared in 3-D; values a site that are held beside those of
both images: the images themselves, the mask, and what the last of the features are made from.
"""
VOLUMES = 5
"""Cost volumes that are alive at once: the costs of both ways, their marginals, and messages
between neighbours.
"""
KEYPOINT_MM = 6.0
"""How far apart the keypoints of a detector are taken to be that does not say."""


def innermost(stage: Any) -> Any:
    """The stage that a stage wraps, and that one, to the last."""
    inner = next(
        (getattr(stage, name) for name in ("stage", "registration") if hasattr(stage, name)), None
    )
    return stage if inner is None else innermost(inner)


def scales_of(stage: Any) -> tuple[Scale, ...]:
    """The levels of a stage, or of the stage that it wraps."""
    return getattr(innermost(stage), "scales", ())


def estimated_mb(pair: ImagePair, preset: Preset, contrasts: int = 1) -> float:
    """Peak memory of a registration that sees so many ``contrasts`` at once, MB."""
    fixed, moving = pair.fixed.grid, pair.moving.grid
    held = 4 * (2 * contrasts + 1) * (fixed.n_voxels + moving.n_voxels)
    return (
        BASE_MB
        + (held + max(MEASURING_BYTES * fixed.n_voxels, *_stages(pair, preset, contrasts))) / 1e6
    )


def check_memory(
    pair: ImagePair, preset: Preset, limit_mb: float | None, contrasts: int = 1
) -> None:
    """Whether a registration fits.

    Raises:
        InputError: a limit that is not positive, or one below the estimate; the message says what
            would fit.
    """
    if limit_mb is None:
        return
    if not limit_mb > 0:
        raise InputError(f"the memory limit must be above 0 MB, got {limit_mb:g}")
    needed = estimated_mb(pair, preset, contrasts)
    if needed > limit_mb:
        share = max(limit_mb - BASE_MB, 0) / (needed - BASE_MB)
        advice = (
            f"images of {100 * share:.0f} % as many voxels would fit: crop them, resample them"
            if share > 0.01
            else "no image would fit: allow more"
        )
        raise InputError(
            f"the preset {preset.name!r} needs about {needed:.0f} MB for these images, and"
            f" {limit_mb:.0f} MB are allowed; {advice}, or take a preset with coarser levels"
        )


def _stages(pair: ImagePair, preset: Preset, contrasts: int) -> Iterator[int]:
    """Bytes of each level and each search of each stage; at least one."""
    yield 0
    boxes = _box(pair.fixed, pair.fixed_mask), _box(pair.moving, pair.moving_mask)
    whole, a_voxel = (
        (
            pair.fixed.grid.shape,
            pair.moving.grid.shape,
        ),
        LEVEL_BYTES + CHANNEL_BYTES * (contrasts - 1),
    )
    for stage in preset.stages:
        ways, margin = (
            2 if isinstance(stage, BothDirections | NonCorrespondence) else 1,
            getattr(innermost(stage), "mask_margin_mm", 0.0),
        )
        regions = (
            4 * sum(prod(shape) for shape in whole[:ways]) if pair.fixed_mask is not None else 0
        )
        for scale in scales_of(stage):
            levels = [
                _wider(box, margin + 4 * scale.spacing_mm, shape).resampled(scale.spacing_mm)
                for box, shape in zip(boxes[:ways], whole, strict=False)
            ]
            yield a_voxel * sum(level.n_voxels for level in levels) + regions
        for search in getattr(innermost(stage), "searches", ()):
            yield _search(search, boxes[0], search.reach_mm(pair.fixed.grid))


def _search(search: Any, box: Grid, reach_mm: NDArray[np.float64]) -> int:
    """Bytes of a search of ``graphreg`` around ``box``, as far beyond it along each axis; keypoints
    on a lattice are as many as fill the box.
    """
    sites = _wider(box, reach_mm).covering(search.spacing_mm).n_voxels
    spacing_mm = getattr(search.detector, "spacing_mm", KEYPOINT_MM)
    keypoints = getattr(
        search.detector, "count", prod(np.ceil(box.extent / spacing_mm).astype(int).tolist())
    )
    return 4 * (
        (2 * FEATURES + OTHER_VOLUMES) * sites + VOLUMES * keypoints * search.labels.count(box.ndim)
    )


def _box(image: Image, mask: Image | None) -> Grid:
    """As large as the box around the mask, or as the image."""
    lower, upper = ([0] * image.grid.ndim, image.grid.shape) if mask is None else bounding_box(mask)
    return Grid.from_spacing([b - a for a, b in zip(lower, upper, strict=True)], image.grid.spacing)


def _wider(
    box: Grid, margin_mm: float | NDArray[np.float64], most: Sequence[int] | None = None
) -> Grid:
    """``box`` with a margin to either side, ``most`` voxels at the most."""
    shape = np.array(box.shape) + 2 * np.ceil(margin_mm / box.spacing).astype(int)
    return Grid.from_spacing(
        (shape if most is None else np.minimum(shape, most)).tolist(), box.spacing
    )
