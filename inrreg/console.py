"""What the command line shows: a progress bar while stages run, and tables of numbers."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from inrreg.stage import Record

out = Console()
err = Console(stderr=True)

SHOWN = ("outcome", "similarity", "jacobian", "inverse", "landmarks", "overlap", "surface", "time_s", "memory_mb")


def set_up_logging(verbosity: int) -> None:
    """Warnings always, one line a stage at 0, everything at 1 and above, nothing but errors below 0."""
    level = logging.ERROR if verbosity < 0 else logging.DEBUG if verbosity > 0 else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False, show_time=False)], force=True)
    logging.getLogger("inrreg").setLevel(level)
    logging.getLogger("graphreg").setLevel(level)


@contextmanager
def progress_bar(enabled: bool) -> Iterator[Any]:
    """A callback for ``register(progress=...)`` that draws stage, level, cost terms and the time left in the level."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[terms]}"))
    with Progress(*columns, console=err, transient=True, disable=not enabled) as bar:
        task = bar.add_task("loading", total=None, terms="")
        shown = 0.0

        def watch(record: Record) -> None:
            nonlocal shown
            now = time.monotonic()
            if record.iteration == 0:
                bar.reset(task, total=record.iterations)
            elif now - shown < 0.1:
                return
            shown = now
            terms = "  ".join(f"{name} {value:.4f}" for name, value in record.terms.items())
            bar.update(task, completed=record.iteration + 1, description=f"{record.stage}, {record.level_mm:g} mm", terms=terms)

        yield watch


def metrics_table(metrics: Mapping[str, Any], title: str) -> Table:
    """The nested metrics as rows of dotted names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for key in SHOWN:
        for name, value in _leaves(key, metrics.get(key)):
            table.add_row(name, value)
    return table


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif value is not None:
        yield name, f"{value:.4g}" if isinstance(value, float) else str(value)
