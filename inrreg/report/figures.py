"""The figures of a report.

Each function returns a matplotlib figure of its own and touches no global state.

Slices share one scale in mm and lie in the radiological convention (see ``planes``); ``mask == 1``
means "use this".
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from inrreg.core.errors import FrameError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.report.panels import (
    FONT,
    INK,
    PLATE,
    draw_colour_bar,
    draw_rows,
    empty_rows,
)
from inrreg.report.planes import Plane, middle_of, planes_of, region

FOLDED = "#ff2bd6"
"""The colour of voxels where the map folds."""

EXPANSION = LinearSegmentedColormap.from_list(
    "expansion", ["#a9d6ff", "#4a9be0", "#1f4b73", "#1a1b1d", "#75331b", "#e07b45", "#ffd3b5"]
)
"""Blue where tissue shrinks, black where it keeps its volume, orange where it grows."""

DIMMED = 0.35
"""What is left of a colour outside the mask."""

HEADROOM = 0.2
"""How far a display window reaches above the 99.5th percentile, so that bright tissue outside a
mask keeps its outlines.
"""

SAME_WINDOW = 0.25
"""Two display windows whose ends differ by less than this part of their width become one: two scans
of a kind.
"""

SAMPLE = 1 << 17
"""Voxels looked at for a percentile."""

NODE_MM, NODES = 2.0, 100
"""Distance of the nodes along a line of the warped grid, and about how many there are at most."""


def three_planes(
    fixed: Image,
    moving_on_fixed: Image,
    warped: Image,
    at: ArrayLike | None = None,
    mask: Image | None = None,
) -> Figure:
    """Fixed (cyan) over moving (red) before and after the registration, grey where they agree; all
    three on the fixed grid.

    Cut through the world point ``at`` (mm), else the middle of ``mask``. Each image is windowed
    from the first percentile of its values within the mask to somewhat above the 99.5th. Of several
    channels the first is shown.

    Raises:
        FrameError: the images do not lie on one grid.
    """
    planes = _planes(fixed.grid, at, mask)
    reference, before, after = _windowed_slices(planes, fixed, moving_on_fixed, warped, mask)
    overlays = {
        label: [np.stack([m, f, f], -1) for m, f in zip(moving, reference, strict=True)]
        for label, moving in (("before", before), ("after", after))
    }
    return draw_rows(planes, overlays)[0]


def difference_planes(
    fixed: Image,
    moving_on_fixed: Image,
    warped: Image,
    at: ArrayLike | None = None,
    mask: Image | None = None,
) -> Figure:
    """Fixed minus moving before and after the registration, each in its display window: mid-grey
    where they agree. Arguments as in ``three_planes``.

    Raises:
        FrameError: the images do not lie on one grid.
    """
    planes = _planes(fixed.grid, at, mask)
    reference, before, after = _windowed_slices(planes, fixed, moving_on_fixed, warped, mask)
    differences = {
        label: [
            np.stack([0.5 + (f - m) / 2] * 3, -1) for m, f in zip(moving, reference, strict=True)
        ]
        for label, moving in (("before", before), ("after", after))
    }
    return draw_rows(planes, differences)[0]


def jacobian_map(
    determinant: Float[Tensor, "*shape"],
    grid: Grid,
    mask: Image | None = None,
    at: ArrayLike | None = None,
) -> Figure:
    """The logarithm of the Jacobian determinant: blue shrinks, orange grows, folded voxels
    (determinant <= 0) in one loud colour, dimmed outside the mask.

    Raises:
        FrameError: the determinant or the mask does not lie on ``grid``.
    """
    det, inside = _on_grid(determinant, grid), region(mask, grid)
    folded = ~(det > 0)
    magnitude = np.abs(np.log(_sample(det, inside & ~folded)))
    limit = max(float(np.percentile(magnitude, 99.5)) if magnitude.size else 0.0, 0.05)
    planes = _planes(grid, at, mask)
    slices = [plane.pixels(np.where(folded, 1.0, det)) for plane in planes]
    figure, ax = _map(
        planes,
        [np.log(values) for values in slices],
        Normalize(-limit, limit),
        EXPANSION,
        "log Jacobian determinant",
        "both",
        inside,
        folded,
    )
    if (folded & inside).any():
        key = Patch(
            color=FOLDED, label=f"folded\n{100 * (folded & inside).sum() / inside.sum():.3g} %"
        )
        ax.legend(
            handles=[key],
            loc="upper left",
            bbox_to_anchor=(0, -0.08),
            frameon=False,
            fontsize=FONT - 1,
            labelcolor=INK,
            handlelength=1.0,
            borderpad=0,
            borderaxespad=0,
        )
    return figure


def displacement_map(
    displacement: Float[Tensor, "*shape d"],
    grid: Grid,
    mask: Image | None = None,
    at: ArrayLike | None = None,
) -> Figure:
    """The length of the displacement in mm, dimmed outside the mask; the scale ends at the 99.5th
    percentile within it.

    Raises:
        FrameError: the displacement or the mask does not lie on ``grid``.
    """
    u, inside = _on_grid(displacement, grid, (grid.ndim,)), region(mask, grid)
    lengths = np.linalg.norm(_sample(u, inside), axis=-1)
    limit = max(float(np.percentile(lengths, 99.5)) if lengths.size else 0.0, 0.1)
    planes = _planes(grid, at, mask)
    slices = [np.linalg.norm(plane.pixels(u), axis=-1) for plane in planes]
    return _map(
        planes,
        slices,
        Normalize(0.0, limit),
        matplotlib.colormaps["magma"],
        "displacement (mm)",
        "max",
        inside,
    )[0]


def warped_grid(
    displacement: Float[Tensor, "*shape d"],
    grid: Grid,
    mask: Image | None = None,
    at: ArrayLike | None = None,
    spacing_mm: float = 8.0,
) -> Figure:
    """Lines of the fixed grid about ``spacing_mm`` apart where the map takes them, seen in the
    plane and without the mean displacement; paler outside the mask.

    Raises:
        FrameError: the displacement or the mask does not lie on ``grid``.
    """
    u, inside = _on_grid(displacement, grid, (grid.ndim,)), region(mask, grid)
    shift = _sample(u, inside).mean(0) if inside.any() else np.zeros(grid.ndim)
    planes = _planes(grid, at, mask)
    figure, axes = empty_rows(planes, [""])
    for ax, plane in zip(axes[0], planes, strict=True):
        _draw_lattice(ax, plane, plane.slice(u) - shift, plane.slice(inside), spacing_mm)
    return figure


def _planes(grid: Grid, at: ArrayLike | None, mask: Image | None) -> list[Plane]:
    return planes_of(grid, middle_of(grid, mask) if at is None else at)


def _windowed_slices(
    planes: Sequence[Plane], fixed: Image, moving_on_fixed: Image, warped: Image, mask: Image | None
) -> list[list[NDArray]]:
    """For each of the three images its slices in its display window, 0 ...

    1; both moving ones in the window of the warped one, so that they compare.
    """
    for image in (moving_on_fixed, warped):
        if not image.grid.same_as(fixed.grid):
            raise FrameError(
                f"{image.name}: the figure needs all images on the fixed grid {fixed.grid}, this"
                f" one lies on {image.grid}; resample it first"
            )
    inside = region(mask, fixed.grid)
    values = [image.data[0].detach().cpu().numpy() for image in (fixed, moving_on_fixed, warped)]
    of_fixed, of_warped = (_window(values[i], inside, mask is None) for i in (0, 2))
    windows = np.array([of_fixed, of_warped, of_warped])
    if np.ptp(windows, axis=0).max() < SAME_WINDOW * np.diff(windows).min():
        windows[:] = windows[:, 0].min(), windows[:, 1].max()
    return [
        [
            ((np.nan_to_num(plane.pixels(volume)) - low) / (high - low)).clip(0, 1)
            for plane in planes
        ]
        for volume, (low, high) in zip(values, windows, strict=True)
    ]


def _window(
    values: NDArray, inside: NDArray[np.bool_], leave_out_background: bool
) -> tuple[float, float]:
    """First to 99.5th percentile and ``HEADROOM`` above it; without a mask of all that is not the
    flat background (the smallest value).
    """
    seen = _sample(values, inside & np.isfinite(values))
    if leave_out_background and seen.size and np.ptp(seen) > 0:
        seen = seen[seen > seen.min()]
    low, high = np.percentile(seen, [1, 99.5]) if seen.size else (0.0, 1.0)
    return float(low), float(low + max((1 + HEADROOM) * (high - low), 1e-6))


def _sample(values: NDArray, chosen: NDArray[np.bool_]) -> NDArray:
    """At most ``SAMPLE`` of the chosen voxels, evenly drawn: enough for a percentile."""
    index = np.flatnonzero(chosen)
    return values.reshape(chosen.size, *values.shape[chosen.ndim :])[
        index[:: -(-len(index) // SAMPLE) or 1]
    ]


def _on_grid(values: Tensor, grid: Grid, trailing: tuple[int, ...] = ()) -> NDArray:
    if tuple(values.shape) != (*grid.shape, *trailing):
        raise FrameError(
            f"a map of shape {tuple(values.shape)} does not lie on {grid}; expected"
            f" {(*grid.shape, *trailing)}"
        )
    return values.detach().cpu().numpy()


def _map(
    planes: Sequence[Plane],
    slices: Sequence[NDArray],
    norm: Normalize,
    colours: Colormap,
    label: str,
    extend: str,
    inside: NDArray[np.bool_],
    folded: NDArray[np.bool_] | None = None,
) -> tuple[Figure, Axes]:
    """One row of coloured slices with a colour bar; returns the figure and the axes of the bar."""
    panels = []
    for plane, values in zip(planes, slices, strict=True):
        image = colours(norm(values))[..., :3]
        if folded is not None:
            image[plane.pixels(folded, np.max)] = to_rgb(FOLDED)
        panels.append(image * np.where(plane.pixels(inside, np.max), 1.0, DIMMED)[..., None])
    figure, axes = draw_rows(planes, {"": panels}, colour_bar=True)
    return figure, draw_colour_bar(figure, axes[0], norm, colours, label, extend)


def _draw_lattice(
    ax: Axes, plane: Plane, u: NDArray[np.float64], inside: NDArray[np.bool_], spacing_mm: float
) -> None:
    """Both families of lines of one plane, displaced by the in-plane part of ``u`` ``[rows,
    columns, d]``.
    """
    ax.set_axis_on()
    ax.set(frame_on=True, facecolor=PLATE)
    ax.spines[:].set_visible(False)
    dx, dy = (float(plane.grid.spacing[a]) for a in plane.axes)
    y, x = np.meshgrid(
        (np.arange(u.shape[0]) + 0.5) * dy, (np.arange(u.shape[1]) + 0.5) * dx, indexing="ij"
    )
    nodes = np.stack([x, y], -1) + np.stack([u @ direction for direction in plane.directions], -1)
    for lines, shown, across, along in (
        (nodes, inside, dy, dx),
        (nodes.swapaxes(0, 1), inside.T, dx, dy),
    ):
        between, thin = (
            max(round(spacing_mm / across), 1),
            max(round(NODE_MM / along), lines.shape[1] // NODES, 1),
        )
        chosen = np.s_[(len(lines) - 1) % between // 2 :: between, ::thin]
        hidden = np.where(shown[chosen][..., None], lines[chosen], np.nan)
        if not shown[chosen].all():
            ax.add_collection(
                LineCollection(list(lines[chosen]), colors="white", linewidths=0.6, alpha=0.3)
            )
        ax.add_collection(LineCollection(list(hidden), colors="white", linewidths=0.7, alpha=0.9))
