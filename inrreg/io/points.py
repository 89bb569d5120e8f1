"""Landmarks as tables: CSV with a header, RAS mm, one list or fixed and moving side by side."""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from inrreg.core.checks import check_pairs
from inrreg.core.errors import InputError, OutputError
from inrreg.core.image import Points
from inrreg.core.image_pair import Correspondences

log = logging.getLogger(__name__)

HEADERS = (
    "`label,x,y,z` for one image or `label,fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z` for"
    " pairs (without z in 2-D)"
)
Row = tuple[int, dict[str, str | None]]


def read(path: Path) -> Points:
    """The points of a table with the columns ``label,x,y,z`` (``label`` may be absent), RAS mm.

    Raises:
        InputError: missing columns, cells that are no numbers, or no points.
    """
    return _read(path, [""])[0]


def read_pairs(path: Path) -> tuple[Points, Points]:
    """Fixed and moving points of a table with the columns ``label,fixed_x,...,moving_z``, RAS mm.

    Raises:
        InputError: missing columns, cells that are no numbers, or no points.
    """
    fixed, moving = _read(path, ["fixed_", "moving_"])
    return fixed, moving


def write(points: Points, path: Path) -> None:
    """Write ``label,x,y,z``, RAS mm, every digit kept.

    Raises:
        OutputError: the file cannot be written.
    """
    _write([points], [""], path)


def write_pairs(fixed: Points, moving: Points, path: Path) -> None:
    """Write ``label,fixed_x,...,moving_z``, RAS mm, with the labels of the fixed points.

    Raises:
        InputError: unequal numbers of points.
        OutputError: the file cannot be written.
    """
    check_pairs(fixed, moving)
    _write([fixed, moving], ["fixed_", "moving_"], path)


def write_correspondences(found: Correspondences, path: Path) -> None:
    """Write ``label,fixed_x,...,moving_z,confidence``, RAS mm: a table of pairs that says how far
    to trust each.

    Raises:
        OutputError: the file cannot be written.
    """
    _write(
        [found.fixed, found.moving],
        ["fixed_", "moving_"],
        path,
        {"confidence": found.confidence.tolist()},
    )


def read_correspondences(path: Path) -> Correspondences:
    """The table that ``write_correspondences`` wrote.

    Raises:
        InputError: as for ``read_pairs``, or no column ``confidence``.
    """
    columns, rows = _table(path)
    fixed, moving = _points(path, columns, rows, ["fixed_", "moving_"])
    if "confidence" not in columns:
        raise InputError(
            f"{path} lacks the column confidence (its first line is {','.join(columns)!r}); read it"
            " as a table of pairs"
        )
    confidence = torch.tensor(
        [_number(path, line, "confidence", row["confidence"]) for line, row in rows]
    )
    return Correspondences(fixed, moving, confidence)


def pair_points(fixed: Points, moving: Points) -> tuple[Points, Points]:
    """Corresponding points of two lists, in the order of the first: by label where both have the
    same ones, else in the order they stand.

    Raises:
        InputError: unequal numbers of points.
    """
    check_pairs(fixed, moving)
    if fixed.labels == moving.labels:
        return fixed, moving
    place = {label: i for i, label in enumerate(moving.labels)}
    if len(place) < len(moving) or set(place) != set(fixed.labels):
        log.warning(
            "%s and %s do not have the same labels: the points are paired in the order they stand",
            fixed.name,
            moving.name,
        )
        return fixed, moving
    return fixed, Points(
        moving.coords[[place[label] for label in fixed.labels]], fixed.labels, moving.name
    )


def _read(path: Path, prefixes: Sequence[str]) -> list[Points]:
    return _points(path, *_table(path), prefixes)


def _points(
    path: Path, columns: Sequence[str], rows: Sequence[Row], prefixes: Sequence[str]
) -> list[Points]:
    """The points in the columns of each prefix."""
    groups = _column_groups(path, columns, prefixes)
    if not rows:
        raise InputError(f"{path} holds no points, only a header; add a line for each point")
    labels = [row.get("label") or str(i) for i, (_, row) in enumerate(rows, start=1)]
    names = [f"{path} ({prefix.rstrip('_')})" if prefix else str(path) for prefix in prefixes]
    return [
        Points.from_array([_position(path, row, group) for row in rows], labels, name)
        for name, group in zip(names, groups, strict=True)
    ]


def _table(path: Path) -> tuple[list[str], list[Row]]:
    """Column names, and the rows with their line numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            return columns, [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} is no readable table ({error}); expected text with the header {HEADERS}"
        ) from error


def _column_groups(path: Path, columns: Sequence[str], prefixes: Sequence[str]) -> list[list[str]]:
    axes = "xyz" if any(f"{prefix}z" in columns for prefix in prefixes) else "xy"
    groups = [[prefix + axis for axis in axes] for prefix in prefixes]
    missing = [name for group in groups for name in group if name not in columns]
    if missing:
        raise InputError(
            f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} (its first"
            f" line is {','.join(columns)!r}); give it the header {HEADERS}"
        )
    return groups


def _position(path: Path, row: Row, columns: Sequence[str]) -> list[float]:
    line, cells = row
    return [_number(path, line, name, cells[name]) for name in columns]


def _number(path: Path, line: int, column: str, cell: str | None) -> float:
    try:
        number = float(cell or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"{path}, line {line}: {column} is {cell!r}, not a finite number; correct or remove the"
            " line"
        )
    return number


def _write(
    lists: Sequence[Points],
    prefixes: Sequence[str],
    path: Path,
    more: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Labels, coordinates, and the columns of ``more``."""
    extra = more or {}
    header = [
        "label",
        *[
            prefix + axis
            for prefix, points in zip(prefixes, lists, strict=True)
            for axis in "xyz"[: points.coords.shape[1]]
        ],
        *extra,
    ]
    rows = zip(
        lists[0].labels,
        *[points.coords.tolist() for points in lists],
        *[[[value] for value in column] for column in extra.values()],
        strict=True,
    )
    try:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(
                [label, *[number for position in positions for number in position]]
                for label, *positions in rows
            )
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror}); check that its folder exists and has"
            " room"
        ) from error
