"""The rows of cohort.csv, the table of a cohort's results."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from inrreg.core.errors import OutputError

TABLE = "cohort.csv"
NUMBERS = {
    "total_s": ("time_s", "total"),
    "stages_s": ("time_s", "stages"),
    "memory_mb": ("memory_mb", "process"),
    "ncc_before": ("similarity", "before", "ncc"),
    "ncc_after": ("similarity", "after", "ncc"),
    "lncc_before": ("similarity", "before", "lncc"),
    "lncc_after": ("similarity", "after", "lncc"),
    "landmarks_initial_mean_mm": ("landmarks", "all", "initial_mean_mm"),
    "landmarks_mean_mm": ("landmarks", "all", "mean_mm"),
    "landmarks_median_mm": ("landmarks", "all", "median_mm"),
    "landmarks_trimmed98_mm": ("landmarks", "all", "trimmed98_mm"),
    "folded_percent": ("jacobian", "folded_percent"),
    "det_min": ("jacobian", "min"),
    "det_sd_log": ("jacobian", "sd_log"),
}
"""The columns of the table that are numbers, and where metrics.json has them."""

Row = dict[str, Any]


def number_at(metrics: Any, keys: Sequence[str]) -> float | None:
    """The number under nested keys; None where there is none, as without landmarks."""
    for key in keys:
        metrics = None if metrics is None else metrics.get(key)
    return metrics


def write_table(rows: Iterable[Row], folder: Path) -> None:
    """Write the table at once or not at all."""
    part = folder / f".{TABLE}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(
                stream, ["name", "preset", "outcome", "message", *NUMBERS], lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(rows)
        part.replace(folder / TABLE)
    except OSError as error:
        raise OutputError(
            f"{folder / TABLE} could not be written ({error.strerror}); check that its folder can"
            " be written to and has room"
        ) from error
