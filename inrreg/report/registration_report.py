"""The page of one registration: how it ended, the numbers, the figures, the settings."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import Change
from inrreg.report.change import change_map
from inrreg.report.figures import (
    convergence,
    difference_planes,
    displacement_map,
    jacobian_map,
    landmark_histogram,
    three_planes,
    warped_grid,
)
from inrreg.report.metric_tables import metric_tables, outcome_label, summary_rows
from inrreg.report.page import Message, Plate, write_report
from inrreg.report.planes import middle_of

USABLE = ("converged", "iteration limit")
"""Outcomes whose sentence is information; that of any other is an error."""


def registration_report(
    path: str | os.PathLike[str],
    *,
    fixed: Image,
    moving_on_fixed: Image,
    warped: Image,
    displacement: Float[Tensor, "*shape d"],
    determinant: Float[Tensor, "*shape"],
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
    messages: Sequence[Message] = (),
    mask: Image | None = None,
    change: Change | None = None,
    landmark_errors: tuple[ArrayLike, ArrayLike] | None = None,
    at: ArrayLike | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page of a registration to ``path`` and return it.

    Images, ``displacement`` (mm, fixed to moving), ``determinant``, ``mask`` (1 = use this) and
    ``change`` lie on the fixed grid. ``metrics`` is what ``metrics.json`` holds, ``config`` what
    ``config.json`` holds, ``history`` as in ``convergence``, ``landmark_errors`` the errors in mm
    before and after. The slices are cut through the world point ``at``, else through the middle of
    the mask.

    Raises:
        FrameError: something does not lie on the fixed grid.
        OutputError: the file cannot be written.
    """
    point = middle_of(fixed.grid, mask) if at is None else np.asarray(at, dtype=float)
    grid = fixed.grid
    plates = [
        *_image_plates(fixed, moving_on_fixed, warped, mask, point),
        Plate(
            "Displacement",
            displacement_map(displacement, grid, mask, point),
            "How far each point moves from the fixed to the moving image." + _dimmed(mask),
        ),
        Plate(
            "Volume change",
            jacobian_map(determinant, grid, mask, point),
            _VOLUME_CHANGE + _dimmed(mask),
        ),
        Plate("Deformed grid", warped_grid(displacement, grid, mask, point), _DEFORMED_GRID),
    ]
    if change is not None:
        plates.append(Plate("Without counterpart", change_map(fixed, change, mask, point), _CHANGE))
    if landmark_errors is not None:
        plates.append(
            Plate(
                "Landmark errors",
                landmark_histogram(*landmark_errors),
                "Distance from where a fixed landmark is mapped to where it lies in the moving"
                " image.",
            )
        )
    if history:
        plates.append(
            Plate(
                "Convergence",
                convergence(history),
                "The loss and its terms in each stage, from the coarsest level to the finest; the"
                " stages have scales of their own.",
            )
        )
    sentence, usable = (
        (metrics.get("outcome") or {}).get("message") or "",
        outcome_label(metrics) in (*USABLE, None),
    )
    return write_report(
        path,
        title=f"Registration of {warped.name} to {fixed.name}",
        lead=sentence if usable else "",
        summary=summary_rows(metrics),
        messages=[*([] if usable or not sentence else [Message("error", sentence)]), *messages],
        tables=metric_tables(metrics),
        figures=plates,
        details=[("Settings", json.dumps(config, indent=2, ensure_ascii=False, default=str))],
        provenance={"Fixed grid": _described(grid), **(provenance or {})},
    )


_OVERLAY = (
    "Fixed image in cyan, moving image in red: grey where they agree. Radiological convention: the"
    " patient's right on the left of the picture."
)
_DIFFERENCE = (
    "Fixed minus moving, each in its display window: mid-grey where they agree. Meaningful where"
    " both images show tissue with the same contrast."
)
_VOLUME_CHANGE = (
    "Local volume change from the fixed to the moving image: blue shrinks, black keeps its volume,"
    " orange grows; 0.7 is twice the volume, −0.7 half of it."
)
_CHANGE = (
    "Above, the fixed image with what was found to have no counterpart in the moving one; below,"
    " what is to be added to the warped image there, in units of the fixed one."
)
_DEFORMED_GRID = (
    "Lines of the fixed grid where the map takes them, seen in the plane, without the mean"
    " displacement."
)


def _image_plates(
    fixed: Image,
    moving_on_fixed: Image,
    warped: Image,
    mask: Image | None,
    point: NDArray[np.float64],
) -> list[Plate]:
    images = (fixed, moving_on_fixed, warped, point, mask)
    place = ", ".join(f"{round(x)}" for x in point).replace("-", "−")
    where = f" Slices through ({place}) mm RAS." if fixed.grid.ndim == 3 else ""
    return [
        Plate("Before and after", three_planes(*images), _OVERLAY + where),
        Plate("Difference", difference_planes(*images), _DIFFERENCE),
    ]


def _dimmed(mask: Image | None) -> str:
    return "" if mask is None else " Dimmed outside the mask."


def _described(grid: Grid) -> str:
    return (
        f"{' × '.join(map(str, grid.shape))} voxels of"
        f" {' × '.join(f'{h:.3g}' for h in grid.spacing)} mm"
    )
