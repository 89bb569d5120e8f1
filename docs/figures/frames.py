"""Draws docs/frames.png: world and voxels, which way a transform points, composition, frames.

Run: python docs/figures/frames.py [FOLDER]

Whatever can be computed here is computed by the package, so the picture cannot drift from the code.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, ConnectionPatch, Ellipse, FancyArrowPatch, Polygon
from numpy.typing import ArrayLike, NDArray

from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.transforms import Affine, Composite, Transform, Translation
from inrreg.transforms.warp import warp

INK, FAINT, FIXED, MOVING, STEP, WRONG = (
    "#24292f",
    "#8b949e",
    "#1f6feb",
    "#bc4c00",
    "#1a7f37",
    "#a40e26",
)
Place = NDArray[np.float64]


def turned(degrees: float) -> Place:
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])


def at(grid: Grid, i: float, j: float) -> Place:
    """World position of a continuous voxel index."""
    return grid.to_world(torch.tensor([i, j], dtype=torch.float64)).numpy()


def moved(transform: Transform, point: ArrayLike) -> Place:
    return transform(torch.tensor(np.asarray(point, dtype=np.float64))).detach().numpy()


def arrow(
    axes: Axes,
    start: ArrayLike,
    end: ArrayLike,
    color: str,
    bend: float = 0.0,
    style: str = "-|>",
    line: str = "-",
    width: float = 1.6,
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            tuple(start),
            tuple(end),
            arrowstyle=style,
            mutation_scale=12,
            color=color,
            lw=width,
            ls=line,
            shrinkA=2,
            shrinkB=2,
            connectionstyle=f"arc3,rad={bend}",
            zorder=4,
        )
    )


def dot(axes: Axes, place: ArrayLike, color: str, size: float = 24, **options: object) -> None:
    axes.scatter(*np.asarray(place), s=size, color=color, zorder=5, **options)


def say(
    axes: Axes,
    place: ArrayLike,
    text: str,
    color: str = INK,
    offset: tuple[float, float] = (6, 4),
    align: str = "left",
    size: float = 9,
) -> None:
    halo = {"boxstyle": "round,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.85}
    axes.annotate(
        text,
        tuple(place),
        xytext=offset,
        textcoords="offset points",
        color=color,
        fontsize=size,
        ha=align,
        va="center",
        bbox=halo,
        zorder=6,
    )


def draw_grid(axes: Axes, grid: Grid, color: str, alpha: float = 0.9) -> None:
    """Voxels as boxes, their centres as dots."""
    for i in range(grid.shape[0] + 1):
        axes.plot(
            *np.stack([at(grid, i - 0.5, -0.5), at(grid, i - 0.5, grid.shape[1] - 0.5)]).T,
            color=color,
            lw=0.6,
            alpha=0.55 * alpha,
        )
    for j in range(grid.shape[1] + 1):
        axes.plot(
            *np.stack([at(grid, -0.5, j - 0.5), at(grid, grid.shape[0] - 0.5, j - 0.5)]).T,
            color=color,
            lw=0.6,
            alpha=0.55 * alpha,
        )
    axes.scatter(
        *grid.points(torch.float64).reshape(-1, 2).numpy().T,
        s=5,
        color=color,
        alpha=alpha,
        zorder=3,
    )


def frame(axes: Axes, title: str, ticks: bool = True) -> None:
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", pad=7, fontweight="bold")
    axes.set_aspect("equal")
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.tick_params(labelsize=7.5, colors=FAINT)
    if ticks:
        axes.set_xlabel("x, mm → patient's right", fontsize=8.5, color=INK)
        axes.set_ylabel("y, mm → front", fontsize=8.5, color=INK)
    else:
        axes.set_xticks([])
        axes.set_yticks([])


def world_and_voxels(axes: Axes) -> None:
    grid = Grid.from_spacing((7, 5), (9.0, 6.0), origin=(-22.0, 24.0), direction=turned(24))
    draw_grid(axes, grid, FIXED)
    axes.add_patch(
        Polygon(
            [at(grid, *c) for c in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))],
            color=FIXED,
            alpha=0.18,
            lw=0,
        )
    )
    origin, sample = at(grid, 0, 0), at(grid, 4.5, 2.25)
    arrow(axes, origin, at(grid, 1, 0), FIXED, width=2.2)
    arrow(axes, origin, at(grid, 0, 1), FIXED, width=2.2)
    say(axes, at(grid, 1, 0), "i: 9 mm", FIXED, (4, -15))
    say(axes, at(grid, 0, 1), "j: 6 mm", FIXED, (-16, 0), "right")
    say(axes, origin, "voxel (0, 0)\norigin (-22, 24) mm", FIXED, (-16, -34), "center")
    dot(axes, sample, INK)
    note = (sample[0] + 13, sample[1] - 22)
    arrow(axes, note, sample, INK, width=0.8)
    say(
        axes,
        note,
        f"voxel (4.5, 2.25)\n= world ({sample[0]:.1f}, {sample[1]:.1f}) mm",
        INK,
        (-10, -14),
    )
    axes.text(
        0.03,
        0.96,
        "world = affine @ voxel\n(0, 0) is the centre of the first voxel",
        transform=axes.transAxes,
        fontsize=9,
        va="top",
        color=INK,
    )
    axes.set_xlim(-46, 52)
    axes.set_ylim(8, 86)
    frame(axes, "1  World (RAS mm) and voxels")


def resampling_map(axes: Axes) -> None:
    fixed = Grid.from_spacing((5, 5), (8.0, 8.0), origin=(-38.0, 12.0), direction=turned(10))
    moving = Grid.from_spacing((7, 4), (6.5, 9.5), origin=(16.0, 38.0), direction=turned(-18))
    matrix, x = turned(-12) * 0.85, at(fixed, 3, 3)
    transform = Affine.from_matrix(
        matrix, at(moving, 3.5, 2.45) - fixed.center - matrix @ (x - fixed.center), fixed.center
    )
    draw_grid(axes, fixed, FIXED)
    draw_grid(axes, moving, MOVING)
    for start, color, width in (
        (at(fixed, 2, 0), FAINT, 0.9),
        (at(fixed, 1, 4), FAINT, 0.9),
        (x, INK, 1.8),
    ):
        end = moved(transform, start)
        arrow(axes, start, end, color, -0.15, width=width)
        dot(axes, start, FIXED)
        dot(axes, end, MOVING)
    i, j = torch.floor(moving.to_voxel(torch.tensor(end))).tolist()
    axes.add_patch(
        Polygon(
            [at(moving, i + a, j + b) for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))],
            color=MOVING,
            alpha=0.25,
            lw=0,
        )
    )
    say(axes, x, "x", FIXED, (-6, 9), "right", 11)
    say(axes, end, "T(x)", MOVING, (9, 0), "left", 11)
    say(axes, at(fixed, 2, -0.5), "fixed grid", FIXED, (0, -12), "center")
    say(axes, at(moving, 5, 3.5), "moving grid", MOVING, (6, 12), "center")
    arrow(axes, [38.0, 12.0], end - [0.2, 1.2], INK, width=0.8)
    say(
        axes,
        [38.0, 12.0],
        "T(x) lies between voxel centres:\nits value is interpolated",
        INK,
        (0, -12),
        "center",
    )
    axes.text(
        0.03,
        0.96,
        "T(x) = x + u(x): every fixed voxel asks\nwhere in the moving image to look",
        transform=axes.transAxes,
        fontsize=9,
        va="top",
        color=INK,
    )
    axes.set_xlim(-52, 70)
    axes.set_ylim(-6, 91)
    frame(axes, "2  A transform maps fixed points to moving points")


def blob(grid: Grid, center: ArrayLike) -> Image:
    """A soft ellipse with a bright core at ``center``."""
    x = grid.points(torch.float64) - torch.tensor(np.asarray(center, dtype=np.float64))
    body, core = (
        torch.sigmoid(3 * (1 - (x / torch.tensor([13.0, 9.0])).norm(dim=-1)) * 4),
        torch.exp(-0.5 * (x / 2.2).square().sum(-1)),
    )
    return Image((0.55 * body + 0.45 * core)[None].float(), grid)


def pulled_and_pushed(panels: list[Axes]) -> None:
    grid = Grid.from_spacing((121, 81), (0.5, 0.5), origin=(-30.0, -20.0))
    landmark, shift = np.array([-9.0, -4.0]), np.array([16.0, 9.0])
    transform = Translation.by(shift)
    partner = moved(transform, landmark)
    moving = blob(grid, partner)
    images = [blob(grid, landmark), moving, warp(moving, transform, grid, outside=0.0)]
    titles = [
        "3  Fixed image, landmark p",
        "Moving image, landmark q = T(p)",
        "Warped: moving image on the fixed grid",
    ]
    for axes, image, title, place, color in zip(
        panels, images, titles, (landmark, partner, landmark), (FIXED, MOVING, FIXED), strict=True
    ):
        axes.imshow(
            image.numpy().T,
            origin="lower",
            extent=(-30.25, 30.25, -20.25, 20.25),
            cmap="gray",
            vmin=0,
            vmax=1.05,
        )
        axes.scatter(*place, s=70, facecolors="none", edgecolors=color, linewidths=1.8)
        axes.axhline(0, color="white", lw=0.4, alpha=0.5)
        axes.axvline(0, color="white", lw=0.4, alpha=0.5)
        frame(axes, title, ticks=False)
    for axes, (x, y), text, color in (
        (panels[0], landmark, "p", FIXED),
        (panels[1], partner, "q", MOVING),
        (panels[2], landmark, "p", FIXED),
    ):
        axes.annotate(
            text,
            (x, y),
            xytext=(-5, -19),
            textcoords="offset points",
            color="white",
            fontsize=11,
            bbox={"boxstyle": "round,pad=0.15", "fc": color, "ec": "none"},
        )
    panels[0].add_patch(Ellipse(tuple(landmark), 36, 28, fill=False, ec="#e3b341", ls="--", lw=1.2))
    panels[0].text(-28, 16.2, "mask == 1: use this", color="#e3b341", fontsize=8.5)
    figure = panels[0].figure
    links = [
        (0, landmark, 1, partner, STEP, "-", -0.28),
        (1, partner, 2, landmark, MOVING, "-", -0.28),
        (1, partner, 0, landmark, FAINT, "--", -0.35),
    ]
    for a, start, b, end, color, line, bend in links:
        figure.add_artist(
            ConnectionPatch(
                tuple(start),
                tuple(end),
                panels[a].transData,
                panels[b].transData,
                arrowstyle="-|>",
                mutation_scale=14,
                shrinkA=6,
                shrinkB=6,
                color=color,
                lw=1.8,
                ls=line,
                connectionstyle=f"arc3,rad={bend}",
                zorder=10,
            )
        )
    panels[0].text(
        0.5,
        -0.10,
        "points are pushed along T:  p → T(p)",
        transform=panels[0].transAxes,
        color=STEP,
        fontsize=9,
        ha="center",
    )
    panels[1].text(
        0.5,
        -0.10,
        "a moving landmark comes back by  T.inverse()(q)",
        transform=panels[1].transAxes,
        color="#57606a",
        fontsize=9,
        ha="center",
    )
    panels[2].text(
        0.5,
        -0.10,
        "values are pulled against T:  moving(T(p)) → p",
        transform=panels[2].transAxes,
        color=MOVING,
        fontsize=9,
        ha="center",
    )


def composition(axes: Axes) -> None:
    initial = Affine.from_matrix(turned(-75), [50.0, 14.0], [0.0, 0.0])
    x, u = np.array([-14.0, -2.0]), np.array([2.0, 20.0])
    total = moved(Composite([Translation.by(u), initial]), x)
    wrong = moved(initial, x) + u
    arrow(axes, x, x + u, STEP, width=2.2)
    arrow(axes, x + u, total, INK, -0.2, width=1.8)
    arrow(axes, x, moved(initial, x), FAINT, -0.2, width=0.9)
    arrow(axes, moved(initial, x), wrong, WRONG, line=":", width=1.4)
    for place, color in ((x, FIXED), (x + u, STEP), (total, MOVING)):
        dot(axes, place, color)
    dot(axes, wrong, WRONG, marker="x")
    dot(axes, moved(initial, x), FAINT, 10)
    say(axes, x, "x", FIXED, (-7, -5), "right", 11)
    say(axes, x + u / 2, "u(x)", STEP, (-6, 3), "right")
    say(axes, x + u, "x + u(x)", STEP, (-4, 10), "center")
    say(axes, (x + u + total) / 2, "initial", INK, (0, 24), "center")
    say(axes, (x + moved(initial, x)) / 2, "initial", FAINT, (18, -4), "center")
    say(axes, total, "initial(x + u(x))", MOVING, (0, -14), "center")
    say(axes, wrong, "not initial(x) + u(x)", WRONG, (-8, 12), "center")
    axes.set_xlim(-28, 84)
    axes.set_ylim(-16, 58)
    frame(axes, "4  Stages are composed, never added", ticks=False)


def ras_and_lps(axes: Axes) -> None:
    axes.add_patch(Ellipse((0, 0), 30, 38, fc="#f6f8fa", ec=FAINT, lw=1.2))
    axes.add_patch(Polygon([(-2.6, 18.6), (0, 23), (2.6, 18.6)], fc="#f6f8fa", ec=FAINT, lw=1.2))
    for side in (-1, 1):
        axes.add_patch(Ellipse((side * 15.8, 0), 2.6, 8, fc="#f6f8fa", ec=FAINT, lw=1.2))
    for end, color, text, offset in (
        ((24, 0), FIXED, "x (R)", (6, -10)),
        ((0, 31), FIXED, "y (A)", (22, -8)),
        ((-24, 0), FAINT, "x (L)", (-6, -10)),
        ((0, -31), FAINT, "y (P)", (22, 8)),
    ):
        arrow(axes, (0, 0), end, color, width=2.0)
        say(axes, end, text, color, offset, "center")
    dot(axes, (7, 11), INK)
    axes.plot([7, 20], [11, 19], color=INK, lw=0.7)
    say(axes, (20, 19), "(7, 11, 45) RAS\n(-7, -11, 45) LPS", INK, (2, 10))
    axes.add_patch(Circle((0, 0), 1.6, fc="white", ec=INK, lw=1, zorder=6))
    dot(axes, (0, 0), INK, 4)
    say(axes, (0, 0), "z (S)", INK, (-8, -9), "right", 8.5)
    axes.text(0.03, 0.03, "RAS: here, nibabel", transform=axes.transAxes, fontsize=9, color=FIXED)
    axes.text(
        0.97,
        0.03,
        "LPS: ITK, Slicer, DICOM",
        transform=axes.transAxes,
        fontsize=9,
        color="#57606a",
        ha="right",
    )
    axes.set_xlim(-56, 56)
    axes.set_ylim(-40, 34)
    frame(axes, "5  RAS within, LPS in files that want it", ticks=False)


def unit_cube(axes: Axes) -> None:
    grid = Grid.from_spacing((9, 5), (4.0, 3.4), direction=turned(28))
    cube = Cube.around(grid)
    c, h = np.array(cube.center), cube.half_width
    axes.add_patch(
        Polygon(c + h * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]), fill=False, ec=INK, lw=1.6)
    )
    draw_grid(axes, grid, FIXED)
    dot(axes, c, INK)
    say(axes, c, "0", INK, (5, 6), size=10)
    for corner, offset, align in ((-1, (-4, -8), "right"), (1, (4, 8), "left")):
        say(axes, c + h * corner, f"({corner}, {corner})", INK, offset, align)
    arrow(axes, (c[0], c[1] - h), (c[0] + h, c[1] - h), STEP, style="<|-|>", width=1.2)
    say(axes, (c[0] + h / 2, c[1] - h), "half width, mm", STEP, (0, -10), "center")
    axes.text(
        0.5,
        0.955,
        "one scale for all axes: a frequency means\nthe same along each",
        transform=axes.transAxes,
        fontsize=9,
        color=INK,
        ha="center",
        va="top",
    )
    axes.set_xlim(c[0] - 2.5 * h, c[0] + 2.5 * h)
    axes.set_ylim(c[1] - 1.45 * h, c[1] + 1.85 * h)
    frame(axes, "6  The unit cube that networks see", ticks=False)


def draw() -> Figure:
    """The whole picture."""
    figure = Figure(figsize=(12.5, 11.9), facecolor="white")
    FigureCanvasAgg(figure)
    rows = figure.add_gridspec(
        3,
        1,
        height_ratios=[1.45, 0.86, 0.9],
        hspace=0.2,
        left=0.055,
        right=0.985,
        top=0.965,
        bottom=0.02,
    )
    top, middle, bottom = (
        rows[r].subgridspec(1, n, wspace=w)
        for r, (n, w) in enumerate([(2, 0.16), (3, 0.07), (3, 0.07)])
    )
    world_and_voxels(figure.add_subplot(top[0]))
    resampling_map(figure.add_subplot(top[1]))
    pulled_and_pushed([figure.add_subplot(middle[k]) for k in range(3)])
    for panel, place in zip((composition, ras_and_lps, unit_cube), bottom, strict=True):
        panel(figure.add_subplot(place))
    return figure


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent
    draw().savefig(folder / "frames.png", dpi=110, metadata={"Software": None})
