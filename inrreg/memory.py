"""How much memory a registration will need at its peak, known before it is run."""

from collections.abc import Iterator
from typing import Any

from inrreg.errors import InputError
from inrreg.pair import Pair
from inrreg.presets import Preset
from inrreg.registration import Scale

BASE_MB = 350
"""Python, torch and the other libraries."""
LEVEL_BYTES, MEASURING_BYTES = 250, 150
"""Measured peaks above the images, a voxel: of a level with a local correlation (sites, samples, what backpropagation keeps), and of measuring on the fixed grid."""


def scales_of(stage: Any) -> tuple[Scale, ...]:
    """The levels of a stage, or of the stage that it wraps."""
    inner = next((getattr(stage, name) for name in ("stage", "registration") if hasattr(stage, name)), None)
    return stage.scales if hasattr(stage, "scales") else () if inner is None else scales_of(inner)


def estimated_mb(pair: Pair, preset: Preset) -> float:
    """Peak memory, MB: the libraries, both images three times, and the finest level or the measuring, whichever is more; masks that leave much out make it less."""
    fixed, moving = pair.fixed.grid, pair.moving.grid
    working = max(LEVEL_BYTES * max(_voxels(pair, preset), default=0), MEASURING_BYTES * fixed.n_voxels)
    return BASE_MB + (4 * 3 * (fixed.n_voxels + moving.n_voxels) + working) / 1e6


def check_memory(pair: Pair, preset: Preset, limit_mb: float | None) -> None:
    """Whether a registration fits.

    Raises:
        InputError: a limit that is not positive, or one below the estimate; the message says what would fit.
    """
    if limit_mb is None:
        return
    if not limit_mb > 0:
        raise InputError(f"the memory limit must be above 0 MB, got {limit_mb:g}")
    needed = estimated_mb(pair, preset)
    if needed > limit_mb:
        share = max(limit_mb - BASE_MB, 0) / (needed - BASE_MB)
        advice = f"images of {100 * share:.0f} % as many voxels would fit: crop them, resample them" if share > 0.01 else "no image would fit: allow more"
        raise InputError(f"the preset {preset.name!r} needs about {needed:.0f} MB for these images, and {limit_mb:.0f} MB are allowed; {advice}, or take a preset with coarser levels")


def _voxels(pair: Pair, preset: Preset) -> Iterator[int]:
    """Of the fixed image at each level of each stage."""
    return (pair.fixed.grid.resampled(scale.spacing_mm).n_voxels for stage in preset.stages for scale in scales_of(stage))
