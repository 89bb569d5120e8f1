"""The figures of numbers: how the loss fell, and how the landmark errors are distributed."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from inrreg.core.errors import InputError
from inrreg.report.panels import FONT, INK, new_figure

SERIES = ("#3f86c6", "#d9792b", "#3f9d74", "#a06cc4", "#c9586f", "#8a8d3a")
"""Line colours that read on white and on black."""


def convergence(history: Sequence[Mapping[str, Any]]) -> Figure:
    """The loss (dark) and its terms against the iteration, one panel a stage, a line where the
    level changes.

    ``history`` holds ``{"stage": str, "level": mm, "iteration": int, "loss": float, "terms": {name:
    value}}`` in the order of the run.

    Raises:
        InputError: the history is empty.
    """
    if not history:
        raise InputError(
            "convergence(): the history is empty; leave the figure out where no iteration was"
            " recorded"
        )
    stages = [
        (name, list(entries))
        for name, entries in groupby(history, key=lambda entry: entry["stage"])
    ]
    names = sorted({term for entry in history for term in entry.get("terms", {})})
    colours = {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}
    figure = new_figure(10.0, 3.1)
    shares = np.sqrt([len(entries) for _, entries in stages])
    left, gap = 0.6, 0.6
    widths = (figure.get_figwidth() - left - gap * (len(stages) - 1) - 0.1) * shares / shares.sum()
    for start, width, (name, entries) in zip(
        left + np.concatenate([[0], np.cumsum(widths + gap)[:-1]]), widths, stages, strict=True
    ):
        ax = figure.add_axes((start / 10.0, 0.78 / 3.1, width / 10.0, 1.95 / 3.1))
        _draw_stage(ax, entries, colours)
        ax.set_title(name, loc="left", color=INK, fontsize=FONT, pad=16, parse_math=False)
    handles = [
        Line2D([], [], color=INK, linewidth=1.6, label="loss"),
        *(
            Line2D([], [], color=colour, linewidth=1.2, label=name.replace("$", r"\$"))
            for name, colour in colours.items()
        ),
    ]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(left / 10.0, 0.0),
        ncols=min(len(handles), 7),
        frameon=False,
        fontsize=FONT - 1,
        labelcolor=INK,
        borderaxespad=0.0,
        borderpad=0.0,
        handlelength=1.4,
    )
    return figure


def landmark_histogram(errors_before: ArrayLike, errors_after: ArrayLike) -> Figure:
    """How many landmarks have which error (mm) before (outline) and after (filled) the
    registration, with both medians.

    Raises:
        InputError: there are no errors.
    """
    before, after = (
        np.asarray(errors, dtype=float).ravel() for errors in (errors_before, errors_after)
    )
    if not before.size or not after.size:
        raise InputError(
            "landmark_histogram(): there are no landmark errors; leave the figure out where no"
            " landmarks were given"
        )
    bins = np.linspace(0, max(before.max(), after.max(), 1e-3) * 1.0001, 31).tolist()
    figure = new_figure(10.0, 2.7)
    ax = figure.add_axes((0.06, 0.2, 0.93, 0.68))
    ax.hist(
        after, bins, color=SERIES[0], alpha=0.85, label=f"after, median {np.median(after):.3g} mm"
    )
    ax.hist(
        before,
        bins,
        histtype="step",
        color=INK,
        linewidth=1.2,
        label=f"before, median {np.median(before):.3g} mm",
    )
    for errors, colour in ((before, INK), (after, SERIES[0])):
        ax.plot(
            float(np.median(errors)),
            1.0,
            marker="v",
            markersize=6,
            color=colour,
            transform=ax.get_xaxis_transform(),
            clip_on=False,
        )
    _plain(ax, "landmark error (mm)", "landmarks")
    ax.set_xlim(0, bins[-1])
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.legend(frameon=False, fontsize=FONT - 1, labelcolor=INK, loc="upper right")
    return figure


def _draw_stage(ax: Axes, entries: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> None:
    """Loss and terms of one stage against a running iteration; each level is named where it
    begins.
    """
    steps = np.array([entry["iteration"] for entry in entries])
    restarts = np.concatenate([[0], np.where(np.diff(steps) <= 0, 1 - np.diff(steps), 0)]).cumsum()
    iterations = steps + restarts
    for name, colour in colours.items():
        values = np.array(
            [entry.get("terms", {}).get(name, np.nan) for entry in entries], dtype=float
        )
        if np.isfinite(values).any():
            ax.plot(iterations, values, color=colour, linewidth=1.2)
    ax.plot(
        iterations,
        np.array([entry["loss"] for entry in entries], dtype=float),
        color=INK,
        linewidth=1.6,
        zorder=1.5,
    )
    levels = [entry.get("level") for entry in entries]
    for index, level in enumerate(levels):
        if level is None or (index and level == levels[index - 1]):
            continue
        if index:
            ax.axvline(float(iterations[index]), color=INK, alpha=0.3, linewidth=0.8)
        ax.annotate(
            f"{level:g} mm",
            (float(iterations[index]), 1),
            (2, 3),
            ("data", "axes fraction"),
            textcoords="offset points",
            color=INK,
            alpha=0.7,
            fontsize=FONT - 1.5,
        )
    _plain(ax, "iteration", "")
    ax.margins(x=0)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(5))


def _plain(ax: Axes, x_label: str, y_label: str) -> None:
    """Two thin axes, no frame."""
    ax.set_facecolor("none")
    ax.spines[["top", "right"]].set_visible(False)
    for spine in (ax.spines["left"], ax.spines["bottom"]):
        spine.set(color=INK, linewidth=0.6)
    ax.tick_params(colors=INK, labelsize=FONT - 1, length=3, width=0.6)
    ax.set_xlabel(x_label, color=INK, fontsize=FONT)
    ax.set_ylabel(y_label, color=INK, fontsize=FONT)
