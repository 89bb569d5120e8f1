"""Rows of slices on one scale in mm, with anatomical letters: the frame that all image figures
share.

Text and axes are drawn in one colour, ``INK``, which the page exchanges for its own, so that a
figure reads in light and dark mode and in print.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from inrreg.report.planes import Plane

INK = "#24292f"
"""The colour of text and axes."""

PLATE = "#141517"
"""The ground of slices that are drawn, not photographed."""

FONT = 9.0
"""Size of text in points; notes are a point smaller."""

WIDTH, HEIGHT, GAP, MARGIN, BAR = 10.0, 4.0, 0.08, 0.28, 1.2
"""Of a row of slices, in inches: greatest width and height, the gap between slices, the room for
labels, the room for a colour bar.
"""

BELOW = 0.45
"""What stays free below a colour bar for a key, in inches."""

LETTER_PLACES = {
    "left": (0.0, 0.5, 4, 0),
    "right": (1.0, 0.5, -4, 0),
    "top": (0.5, 1.0, 0, -4),
    "bottom": (0.5, 0.0, 0, 4),
}
"""Where a border letter stands: in parts of the slice, then shifted by points."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches that draws itself without pyplot."""
    figure = Figure(figsize=(width, height), dpi=150)
    FigureCanvasAgg(figure)
    return figure


def draw_rows(
    planes: Sequence[Plane], rows: Mapping[str, Sequence[NDArray]], colour_bar: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of one row of slices (``[rows, columns, 3 or 4]`` in 0 ...

    1, one a plane) for each label; returns it with the axes of each row.
    """
    figure, axes = empty_rows(planes, list(rows), colour_bar)
    for row, images in zip(axes, rows.values(), strict=True):
        for ax, plane, image in zip(row, planes, images, strict=True):
            ax.imshow(
                np.uint8(255 * image.clip(0, 1) + 0.5),
                extent=plane.pixel_extent(image),
                interpolation="none",
                aspect="auto",
            )
            ax.set(xlim=(0, plane.size_mm[0]), ylim=(plane.size_mm[1], 0))
    return figure, axes


def empty_rows(
    planes: Sequence[Plane], labels: Sequence[str], colour_bar: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a row of axes in mm for each label, one a plane; in 2-D, where there is but one
    plane, the rows stand side by side.

    All lie on one scale, which depends on nothing but the planes, so the slices of all figures of
    one grid have the same size and place.
    """
    if len(planes) > 1:
        return _lay_out(planes, [plane.name for plane in planes], labels, colour_bar)
    figure, axes = _lay_out([*planes] * len(labels), labels, [""], colour_bar)
    return figure, [[ax] for ax in axes[0]]


def _lay_out(
    columns: Sequence[Plane], titles: Sequence[str], labels: Sequence[str], colour_bar: bool
) -> tuple[Figure, list[list[Axes]]]:
    """Rows and columns of axes with a title over each column and a label left of each row."""
    widths, heights = np.array([plane.size_mm for plane in columns]).T
    left, top = MARGIN * (columns[0].grid.ndim > 2), MARGIN * any(titles)
    per_row = max(len(columns), 2)
    scale = min(
        (WIDTH - left - BAR - GAP * (per_row - 1)) / (widths.mean() * per_row),
        HEIGHT / heights.max(),
    )
    height = scale * heights.max()
    starts = left + np.concatenate([[0], np.cumsum(scale * widths + GAP)])
    figure = new_figure(
        starts[-1] - GAP + BAR * colour_bar, top + len(labels) * (height + GAP) - GAP
    )
    w, h = figure.get_size_inches()
    axes = []
    for bottom, label in zip((height + GAP) * np.arange(len(labels))[::-1], labels, strict=True):
        axes.append(
            [
                _slice_axes(figure, plane, (x, bottom, scale * plane.size_mm[0], height))
                for x, plane in zip(starts[:-1], columns, strict=True)
            ]
        )
        figure.text(
            0.07 / w,
            (bottom + height / 2) / h,
            label,
            rotation=90,
            ha="left",
            va="center",
            color=INK,
            fontsize=FONT,
        )
    for ax, title in zip(axes[0], titles, strict=True):
        ax.annotate(
            title,
            (0.5, 1),
            (0, 5),
            "axes fraction",
            textcoords="offset points",
            ha="center",
            va="bottom",
            color=INK,
            fontsize=FONT,
        )
    return figure, axes


def _slice_axes(figure: Figure, plane: Plane, box: tuple[float, float, float, float]) -> Axes:
    """Axes in mm, right and down the screen, at the top of a box given in inches."""
    x, y, width, height = box
    shown = width * plane.size_mm[1] / plane.size_mm[0]
    w, h = figure.get_size_inches()
    ax = figure.add_axes(
        (x / w, (y + height - shown) / h, width / w, shown / h), frameon=False, xticks=[], yticks=[]
    )
    ax.set_axis_off()
    ax.set(xlim=(0, plane.size_mm[0]), ylim=(plane.size_mm[1], 0))
    for place, letter in plane.letters.items():
        u, v, dx, dy = LETTER_PLACES[place]
        text = ax.annotate(
            letter,
            (u, v),
            (dx, dy),
            "axes fraction",
            textcoords="offset points",
            color="white",
            fontsize=FONT - 1,
            fontweight="bold",
        )
        text.set(
            ha=place if dx else "center",
            va=place if dy else "center",
            path_effects=[withStroke(linewidth=2.5, foreground="#000000c0")],
        )
    return ax


def draw_colour_bar(
    figure: Figure, row: Sequence[Axes], norm: Normalize, colours: Colormap, label: str, extend: str
) -> Axes:
    """A slim labelled colour bar to the right of a row of slices."""
    w, h = figure.get_size_inches()
    boxes = [ax.get_position() for ax in row]
    height = min(max(box.height for box in boxes) * h - BELOW, 2.6)
    ax = figure.add_axes((boxes[-1].x1 + 0.22 / w, boxes[-1].y1 - height / h, 0.12 / w, height / h))
    bar = figure.colorbar(
        ScalarMappable(norm, colours), cax=ax, extend=extend, ticks=MaxNLocator(5), extendfrac=0.04
    )
    bar.outline.set_visible(False)
    bar.set_label(label, color=INK, fontsize=FONT)
    ax.tick_params(colors=INK, labelsize=FONT - 1, length=2, width=0.6)
    return ax
