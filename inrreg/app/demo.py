"""The demonstration: a generated pair with known truth, registered like any other."""

import logging
from pathlib import Path

from inrreg.app.register import register
from inrreg.app.result import Result, check_output
from inrreg.core.errors import InputError
from inrreg.optimisation.stage_result import Progress
from inrreg.phantoms import lung_pair, save_pair

log = logging.getLogger(__name__)

FIELD_OF_VIEW_MM = 288.0
SMALLEST = 16
"""Voxels along the longest axis."""


def lung_demo(
    folder: Path,
    *,
    size: int = 96,
    motion_mm: float = 20.0,
    seed: int = 0,
    threads: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Write a breathing lung pair to ``folder/pair``, register it by the lung preset, and save the
    result to ``folder/result``.

    Raises:
        InputError: a size or motion for which there is no phantom.
        OutputError: the folder cannot be written.
    """
    if size < SMALLEST:
        raise InputError(f"a size of {size} voxels shows no lung; give {SMALLEST} or more")
    check_output(folder / "result")
    spacing = FIELD_OF_VIEW_MM / size
    log.info(
        "making a lung pair of %.2g mm voxels, mean motion %g mm, seed %d", spacing, motion_mm, seed
    )
    pair = lung_pair(
        shape=(size, round(size * 5 / 6), size), spacing=spacing, motion_mm=motion_mm, seed=seed
    )
    save_pair(pair, folder / "pair")
    result = register(
        pair.fixed,
        pair.moving,
        preset="lung",
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
        landmarks=(pair.fixed_landmarks, pair.moving_landmarks),
        threads=threads,
        device=device,
        seed=seed,
        progress=progress,
    )
    result.save(folder / "result")
    return result
