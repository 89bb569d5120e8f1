"""The page of one registration: how it ended, the numbers, the figures, the settings."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from inrreg.report.curves import convergence, landmark_histogram
from inrreg.report.figures import (
    difference_planes,
    displacement_map,
    jacobian_map,
    three_planes,
    warped_grid,
)
from inrreg.report.metric_tables import metric_tables, outcome_label, summary_rows
from inrreg.report.page import Message, Plate, write_report
from inrreg.report.planes import middle_of

USABLE = ("converged", "iteration limit")
"""Outcomes whose sentence is information; that of any other is an error."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ReportContent:
    """What the page of a registration shows.

    The images, ``displacement`` (mm, fixed to moving), ``determinant``, ``mask`` (1 = use this) and
    ``change`` lie on the fixed grid. ``metrics`` is the content of metrics.json and ``config`` that
    of config.json. ``history`` is as in ``convergence``. ``landmark_errors`` are the errors in mm
    before and after. The slices go through the world point ``at``, else through the middle of the
    mask.
    """

    fixed: Image
    moving_on_fixed: Image
    warped: Image
    displacement: Float[Tensor, "*shape d"]
    determinant: Float[Tensor, "*shape"]
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]] = ()
    messages: Sequence[Message] = ()
    mask: Image | None = None
    change: Change | None = None
    landmark_errors: tuple[ArrayLike, ArrayLike] | None = None
    at: ArrayLike | None = None
    provenance: Mapping[str, Any] | None = None

    @property
    def point(self) -> NDArray[np.float64]:
        """The world point that all slices go through."""
        if self.at is None:
            return middle_of(self.fixed.grid, self.mask)
        return np.asarray(self.at, dtype=float)


def registration_report(path: str | os.PathLike[str], content: ReportContent) -> Path:
    """Write the page of a registration to ``path`` and return it.

    Raises:
        FrameError: something does not lie on the fixed grid.
        OutputError: the file cannot be written.
    """
    metrics, config = content.metrics, content.config
    sentence = (metrics.get("outcome") or {}).get("message") or ""
    usable = outcome_label(metrics) in (*USABLE, None)
    failure = [] if usable or not sentence else [Message("error", sentence)]
    grid = content.fixed.grid
    return write_report(
        path,
        title=f"Registration of {content.warped.name} to {content.fixed.name}",
        lead=sentence if usable else "",
        summary=summary_rows(metrics),
        messages=[*failure, *content.messages],
        tables=metric_tables(metrics),
        figures=[*_image_plates(content), *_map_plates(content), *_optional_plates(content)],
        details=[("Settings", json.dumps(config, indent=2, ensure_ascii=False, default=str))],
        provenance={"Fixed grid": _described(grid), **(content.provenance or {})},
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
_LANDMARKS = "Distance from where a fixed landmark is mapped to where it lies in the moving image."
_CONVERGENCE = (
    "The loss and its terms in each stage, from the coarsest level to the finest; the stages have"
    " scales of their own."
)
_DEFORMED_GRID = (
    "Lines of the fixed grid where the map takes them, seen in the plane, without the mean"
    " displacement."
)


def _image_plates(content: ReportContent) -> list[Plate]:
    """The images before and after."""
    images = (content.fixed, content.moving_on_fixed, content.warped, content.point, content.mask)
    place = ", ".join(f"{round(x)}" for x in content.point).replace("-", "−")
    where = f" Slices through ({place}) mm RAS." if content.fixed.grid.ndim == 3 else ""
    return [
        Plate("Before and after", three_planes(*images), _OVERLAY + where),
        Plate("Difference", difference_planes(*images), _DIFFERENCE),
    ]


def _map_plates(content: ReportContent) -> list[Plate]:
    """The displacement and its Jacobian determinant."""
    where = (content.fixed.grid, content.mask, content.point)
    dimmed = _dimmed(content.mask)
    return [
        Plate(
            "Displacement",
            displacement_map(content.displacement, *where),
            "How far each point moves from the fixed to the moving image." + dimmed,
        ),
        Plate("Volume change", jacobian_map(content.determinant, *where), _VOLUME_CHANGE + dimmed),
        Plate("Deformed grid", warped_grid(content.displacement, *where), _DEFORMED_GRID),
    ]


def _optional_plates(content: ReportContent) -> list[Plate]:
    """The figures of what only some registrations have."""
    plates = []
    if content.change is not None:
        figure = change_map(content.fixed, content.change, content.mask, content.point)
        plates.append(Plate("Without counterpart", figure, _CHANGE))
    if content.landmark_errors is not None:
        figure = landmark_histogram(*content.landmark_errors)
        plates.append(Plate("Landmark errors", figure, _LANDMARKS))
    if content.history:
        plates.append(Plate("Convergence", convergence(content.history), _CONVERGENCE))
    return plates


def _dimmed(mask: Image | None) -> str:
    return "" if mask is None else " Dimmed outside the mask."


def _described(grid: Grid) -> str:
    return (
        f"{' × '.join(map(str, grid.shape))} voxels of"
        f" {' × '.join(f'{h:.3g}' for h in grid.spacing)} mm"
    )
