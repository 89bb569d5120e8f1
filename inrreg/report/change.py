"""What has no counterpart, as a figure: the mask over the fixed image, and what changed there."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from inrreg.core.errors import FrameError
from inrreg.core.image import Image
from inrreg.core.image_pair import Change
from inrreg.report.panels import draw_colour_bar, draw_rows
from inrreg.report.planes import middle_of, planes_of, region

ABSENT = "#ffb000"
"""The colour of what has no counterpart."""

COVER = 0.55
"""How far that colour covers the image at a probability of 1."""

CHANGE = LinearSegmentedColormap.from_list(
    "change", ["#7fd0ff", "#2f6f9f", "#141517", "#a3502a", "#ffc08f"]
)
"""Blue where the fixed image is darker than the warped one, black where it is as bright, orange
where it is brighter.
"""


def change_map(
    fixed: Image, change: Change, mask: Image | None = None, at: ArrayLike | None = None
) -> Figure:
    """The fixed image with the mask of what has no counterpart over it, and below the change of
    intensity.

    Cut through the middle of the largest piece that was found; where that is nothing, through
    ``at``, else the middle of ``mask``.

    Raises:
        FrameError: the change does not lie on the grid of ``fixed``.
    """
    for image in (change.non_correspondence, change.appearance_change):
        if not image.grid.same_as(fixed.grid):
            raise FrameError(
                f"{image.name}: the figure needs it on the fixed grid {fixed.grid}, it lies on"
                f" {image.grid}; resample it first"
            )
    absent, added = (
        image.data[0].detach().cpu().numpy()
        for image in (change.non_correspondence, change.appearance_change)
    )
    found = _largest(change.non_correspondence)
    point = (
        middle_of(fixed.grid, found)
        if found is not None
        else middle_of(fixed.grid, mask)
        if at is None
        else at
    )
    planes = planes_of(fixed.grid, point)
    values = fixed.data[0].detach().cpu().numpy()
    low, high = np.percentile(values[region(mask, fixed.grid)], [1, 99.5])
    shown = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
    limit = max(float(np.abs(added).max()), 1e-12)
    norm = Normalize(-limit, limit)
    rows = {
        "no counterpart": [_covered(plane.pixels(shown), plane.pixels(absent)) for plane in planes],
        "change": [np.asarray(CHANGE(norm(plane.pixels(added)))) for plane in planes],
    }
    figure, axes = draw_rows(planes, rows, colour_bar=True)
    draw_colour_bar(figure, axes[1], norm, CHANGE, "change of intensity", "neither")
    return figure


def _largest(absent: Image) -> Image | None:
    """The largest piece that is likelier absent than not."""
    from scipy.ndimage import label

    pieces, count = label(absent.data[0].detach().cpu().numpy() > 0.5)
    if count == 0:
        return None
    largest = 1 + np.bincount(pieces.ravel())[1:].argmax()
    return Image.from_array((pieces == largest).astype(np.float32), absent.grid)


def _covered(grey: NDArray, probability: NDArray) -> NDArray:
    """A grey image ``[rows, columns]`` with the colour of absence over it."""
    share = COVER * probability[..., None]
    return (1 - share) * grey[..., None] + share * np.array(to_rgb(ABSENT))
