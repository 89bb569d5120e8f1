"""Draws docs/images/lung.png: a generated lung pair before and after the registration by the lung
preset. Run: python docs/figures/readme.py [FOLDER]

Takes a minute or two. Everything shown is evaluated on an upright coronal plane of its own,
wherever the voxels of the images lie.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

import inrreg
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.evaluation import landmark_error
from inrreg.ops.masks import as_weight
from inrreg.ops.sampling import smoothed
from inrreg.phantoms import PhantomPair, lung_pair
from inrreg.transforms import Transform, identity
from inrreg.transforms.warp import warp

PIXEL_MM, LINE_MM, MARGIN_MM, SOFT_MM = 0.75, 7.5, 12.0, 1.5
WINDOW_HU, DIMMED = (-1020.0, 180.0), 0.4
PLATE, INK = "#0d0f12", "#e6e8ea"
WARM = ListedColormap(colormaps["plasma"](np.linspace(0.2, 1, 256)))
Picture = NDArray[np.float32]


def coronal(mask: Image, through: NDArray[np.float64]) -> Grid:
    """A plane of one voxel's thickness through a world point, along x and z and a margin wider than
    ``mask``; i runs to the patient's left, k down, as on a screen.
    """
    inside = mask.grid.points().numpy()[mask.numpy() > 0]
    upper, lower = inside.max(0) + MARGIN_MM, inside.min(0) - MARGIN_MM
    width, height = ((upper - lower)[[0, 2]] / PIXEL_MM).astype(int)
    return Grid.from_spacing(
        (width, 1, height), PIXEL_MM, (upper[0], through[1], upper[2]), np.diag([-1.0, 1.0, -1.0])
    )


def shown(image: Image) -> Picture:
    """The plane as rows and columns of 0 ... 1."""
    low, high = WINDOW_HU
    return ((image.numpy()[:, 0].T - low) / (high - low)).clip(0, 1)


def overlay(axes: Axes, fixed: Picture, moving: Picture, bright: Picture) -> None:
    """Moving in red over fixed in cyan: grey where they agree."""
    axes.imshow(np.stack([moving, fixed, fixed], -1) * bright[..., None], interpolation="bilinear")


def lattice(
    axes: Axes, fixed: Picture, inside: NDArray[np.bool_], transform: Transform, plane: Grid
) -> LineCollection:
    """Where the map takes the lines of a lattice in the lungs, seen in the plane and coloured by
    the length of the displacement in mm.
    """
    axes.imshow(0.4 * fixed, cmap="gray", vmin=0, vmax=1, interpolation="bilinear")
    with torch.no_grad():
        displacement = transform.displacement_on(plane)[:, 0].numpy().swapaxes(0, 1)
    rows, columns = np.mgrid[: plane.shape[2], : plane.shape[0]]
    nodes = np.stack([columns, rows], -1) + displacement @ plane.direction[:, [0, 2]] / PIXEL_MM
    length = np.linalg.norm(displacement, axis=-1)
    step = int(LINE_MM / PIXEL_MM)
    pieces, colours = [], []
    for n, size, kept in ((nodes, length, inside), (nodes.swapaxes(0, 1), length.T, inside.T)):
        both = (kept[:, 1:] & kept[:, :-1])[step // 2 :: step]
        pieces.append(np.stack([n[:, :-1], n[:, 1:]], -2)[step // 2 :: step][both])
        colours.append(size[:, 1:][step // 2 :: step][both])
    lines = LineCollection(
        np.concatenate(pieces),
        array=np.concatenate(colours),
        cmap=WARM,
        linewidths=1.0,
        capstyle="round",
    )
    lines.set_clim(0, float(np.concatenate(colours).max()))
    axes.add_collection(lines)
    return lines


def draw(pair: PhantomPair, transform: Transform) -> Figure:
    """Before, after, and the map, with the mean distance of the landmarks in the lungs."""
    error = landmark_error(transform, pair.fixed_landmarks, pair.moving_landmarks).to_json()[
        "groups"
    ]["lung"]
    plane = coronal(pair.fixed_mask, pair.fixed_landmarks.coords.mean(0).numpy())
    fixed = shown(warp(pair.fixed, identity(3), plane, method="cubic"))
    before, after = (
        shown(warp(pair.moving, way, plane, method="cubic")) for way in (identity(3), transform)
    )
    mask = (
        warp(
            smoothed(as_weight(pair.fixed_mask, pair.fixed.grid), SOFT_MM),
            identity(3),
            plane,
            method="cubic",
        )
        .numpy()[:, 0]
        .T
    )
    bright = DIMMED + (1 - DIMMED) * (2.5 * mask - 1.5).clip(0, 1)
    height, width = fixed.shape
    size = 4.0
    figure = Figure(figsize=(3 * size, size * height / width + 0.36), facecolor=PLATE)
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        1,
        3,
        gridspec_kw={
            "left": 0.0,
            "right": 1.0,
            "top": 1 - 0.36 / figure.get_figheight(),
            "bottom": 0.0,
            "wspace": 0.01,
        },
    )
    overlay(panels[0], fixed, before, bright)
    overlay(panels[1], fixed, after, bright)
    lines = lattice(panels[2], fixed, mask > 0.5, transform, plane)
    titles = (
        f"before: landmarks {error['initial_mean_mm']:.1f} mm apart",
        f"after: {error['mean_mm']:.1f} mm",
        "where the map takes a lattice",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, color=INK, fontsize=10.5, loc="left", pad=6, x=0.02)
        axes.axis("off")
    bar = figure.colorbar(
        lines,
        cax=panels[2].inset_axes((0.42, 0.13, 0.3, 0.02)),
        orientation="horizontal",
        ticks=MaxNLocator(4),
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, length=0)
    bar.set_label("displacement, mm", color=INK, fontsize=8.5)
    return figure


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "images"
    pair = lung_pair(shape=(128, 108, 128), spacing=2.25, motion_mm=20.0, seed=0)
    result = inrreg.register(
        pair.fixed,
        pair.moving,
        preset="lung",
        fixed_mask=pair.fixed_mask,
        moving_mask=pair.moving_mask,
    )
    draw(pair, result.transform).savefig(folder / "lung.png", dpi=120, metadata={"Software": None})
