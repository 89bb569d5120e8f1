"""What the command line shows: messages, the progress of stages, and tables of numbers."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

if TYPE_CHECKING:
    from inrreg.optimisation.stage_result import Record

    Watch = Callable[[Record], None]

out = Console()
err = Console(stderr=True)

LANDMARK_COLUMNS = {
    "n": "n",
    "initial": "initial_mean_mm",
    "mean": "mean_mm",
    "median": "median_mm",
    "trimmed98": "trimmed98_mm",
    "snapped mean": "snapped_mean_mm",
}
"""Heading and key of the landmark table."""

COHORT_COLUMNS = {
    "s": "total_s",
    "LNCC": "lncc_before",
    "after": "lncc_after",
    "landmarks, mm": "landmarks_initial_mean_mm",
    "then": "landmarks_mean_mm",
    "folded %": "folded_percent",
}


class _Lines(logging.Handler):
    """One unwrapped line a message, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        err.print(f"{level}{self.format(record)}", markup=False, highlight=False, soft_wrap=True)


def set_up_logging(quiet: bool = False, verbose: bool = False) -> None:
    """Show warnings; nothing but errors where ``quiet``; what the stages say of themselves too
    where ``verbose``.
    """
    handler = _Lines(logging.ERROR if quiet else logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    for package in ("inrreg", "graphreg"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.WARNING)


@contextmanager
def progress_shown() -> Iterator["Watch"]:
    """A callback for ``register(progress=...)``: a bar on a terminal and in a notebook, a line for
    each finished level elsewhere.
    """
    with progress_bar() if err.is_terminal or err.is_jupyter else _level_lines() as watch:
        yield watch


@contextmanager
def progress_bar() -> Iterator["Watch"]:
    """A callback for ``register(progress=...)`` that shows a bar, in a terminal or a notebook:
    stage, level, iterations, time left in the level, and the cost. The bar goes when all is done.

        with progress_bar() as bar:
            result = inrreg.register(fixed, moving, progress=bar)
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[cost]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task, shown = bar.add_task("starting", total=None, cost=""), 0.0

        def watch(record: "Record") -> None:
            nonlocal shown
            if record.iteration == 0:
                bar.reset(
                    task,
                    total=record.iterations,
                    description=f"{record.stage}, {record.level_mm:g} mm",
                    cost="",
                )
            elif time.monotonic() - shown < 0.1:
                return
            shown = time.monotonic()
            bar.update(task, completed=record.iteration + 1, cost=f"cost {record.cost:.4f}")

        yield watch


@contextmanager
def _level_lines() -> Iterator["Watch"]:
    """``continuous, 4 mm: 80 iterations, cost 0.3121 -> 0.1043``, once the level is done."""
    level: list[Record] = []

    def finish() -> None:
        if level:
            first, last = level[0], level[-1]
            err.print(
                f"{last.stage}, {last.level_mm:g} mm: {last.iteration + 1} iterations, cost"
                f" {first.cost:.4f} -> {last.cost:.4f}",
                highlight=False,
                soft_wrap=True,
            )
        level.clear()

    def watch(record: "Record") -> None:
        if record.iteration == 0:
            finish()
        level[1:] = []
        level.append(record)

    yield watch
    finish()


@contextmanager
def pairs_shown() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A callback for ``cohort.run(progress=...)``: a line for each finished pair."""
    yield lambda row: err.print(
        f"{row['name']}: {_pair(row)}", markup=False, highlight=False, soft_wrap=True
    )


def _pair(row: Mapping[str, Any]) -> str:
    how = row["message"] if row["total_s"] is None else f"{row['total_s']:.1f} s"
    return f"{row['outcome'].replace('_', ' ')}, {how}"


def cohort_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line a pair with what a reader wants first; ``cohort.csv`` holds the rest."""
    shown = {
        heading: key
        for heading, key in COHORT_COLUMNS.items()
        if any(row[key] is not None for row in rows)
    }
    table = Table(
        "pair",
        "outcome",
        *[Column(heading, justify="right") for heading in shown],
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for row in rows:
        table.add_row(
            row["name"],
            row["outcome"].replace("_", " "),
            *["" if row[key] is None else f"{row[key]:.3g}" for key in shown.values()],
        )
    return table


def show_metrics(metrics: Mapping[str, Any], title: str) -> None:
    """Print what a reader wants first of the numbers of ``metrics.json`` (or of some of its
    sections); the file holds all of them.
    """
    summary = Table(
        Column(style="bold"),
        Column(),
        title=title,
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    for section, row in ROWS.items():
        if metrics.get(section):
            summary.add_row(
                section.replace("time_s", "time").replace("memory_mb", "memory"),
                row(metrics[section], metrics),
            )
    out.print(summary)
    if landmarks := metrics.get("landmarks"):
        out.print()
        out.print(landmark_table(landmarks))


def landmark_table(landmarks: Mapping[str, Any]) -> Table:
    """Errors in mm of all landmarks, and of each group that is not all of them."""
    groups = {
        name: errors for name, errors in landmarks["groups"].items() if errors != landmarks["all"]
    }
    shown = {heading: key for heading, key in LANDMARK_COLUMNS.items() if key in landmarks["all"]}
    table = Table(
        "landmarks, mm",
        *[Column(heading, justify="right") for heading in shown],
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for name, errors in {"all": landmarks["all"], **groups}.items():
        table.add_row(
            name,
            *[
                f"{errors[key]:.2f}" if isinstance(errors[key], float) else str(errors[key])
                for key in shown.values()
            ],
        )
    return table


def _outcome(outcome: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    return f"{outcome['name'].replace('_', ' ')}: {outcome['message']}"


def _time(seconds: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    stages = ", ".join(
        f"{stage['name']} {stage['seconds']:.1f}" for stage in metrics.get("stages", ())
    )
    return f"{seconds['total']:.1f} s ({stages})"


def _memory(megabytes: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{where} {amount:.0f} MB" for where, amount in megabytes.items())


def _similarity(similarity: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    before, after = similarity["before"], similarity["after"]
    return ", ".join(
        f"{name} {_number(before[name.lower()])} -> {_number(after[name.lower()])}"
        for name in ("NCC", "LNCC")
    )


def _jacobian(jacobian: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    return (
        f"{jacobian['folded_percent']:.3g} % folded in the {jacobian['region']}; determinant"
        f" {jacobian['min']:.2f} to {jacobian['max']:.2f}"
    )


def _overlap(overlap: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    return f"Dice {_number(overlap['mean_dice'])} on average over {overlap['n_labels']} labels"


def _surface(surface: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    lost = f"; {surface['n_missing']} labels lost" if surface["n_missing"] else ""
    return (
        f"distance {_number(surface['mean_surface_distance_mm'])} mm, Hausdorff 95 %"
        f" {_number(surface['mean_hausdorff95_mm'])} mm on average{lost}"
    )


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"


ROWS = {
    "outcome": _outcome,
    "time_s": _time,
    "memory_mb": _memory,
    "similarity": _similarity,
    "jacobian": _jacobian,
    "overlap": _overlap,
    "surface": _surface,
}
"""The line of each section, in the order shown."""
