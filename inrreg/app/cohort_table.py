"""The CSV of a cohort: one pair a line, checked as a whole before any of them is run."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from inrreg.app.config import input_entry
from inrreg.core.errors import InputError
from inrreg.core.hashes import hash_file
from inrreg.core.image import Points
from inrreg.io import pair_points, read_point_pairs, read_points
from inrreg.presets import Preset
from inrreg.presets import preset as named_preset

REQUIRED_COLUMNS = ("name", "fixed", "moving")
IMAGES = ("fixed", "moving", "fixed_mask", "moving_mask")
TABLES = ("landmarks", "guide_landmarks")
TWO_TABLES = ("fixed_landmarks", "moving_landmarks")
COLUMNS = ("name", *IMAGES, *TABLES, *TWO_TABLES, "preset")
NAME = re.compile(r"\w[\w.-]*")
RESERVED = {"logs", "cohort.csv"}
FAULTS_REPORTED = 3
"""Faults that are told at once."""

Landmarks = Path | tuple[Path, Path]
"""One table of pairs, or one of fixed and one of moving points."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One line of the CSV: absolute paths, and the preset itself."""

    name: str
    fixed: Path
    moving: Path
    preset: Preset
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    landmarks: Landmarks | None = None
    guide_landmarks: Landmarks | None = None

    def arguments(self) -> dict[str, Any]:
        """What ``register`` is called with."""
        return {name: value for name, value in vars(self).items() if name != "name"}


def read_pairs(path: str | PathLike[str], preset: str | Preset) -> list[Entry]:
    """The pairs of a CSV with a header of ``COLUMNS``; ``preset`` is for lines that name none.

    Files are relative to the CSV, images are not opened.

    Raises:
        InputError: no such table, columns that are missing or unknown, or lines with a bad name, a
            file that is not there, or a preset that is none; the first faults are told.
    """
    table = Path(path).absolute()
    lines = _lines(table)
    default = named_preset(preset) if isinstance(preset, str) else preset
    faults: list[str] = []
    entries: list[Entry] = []
    taken: dict[str, int] = {}
    for number, cells in lines:
        found = [
            *_name_faults(cells, taken),
            *_file_faults(table.parent, cells),
            *_choice_faults(cells),
        ]
        taken.setdefault(cells.get("name", "").casefold(), number)
        faults += [f"line {number}: {fault}" for fault in found]
        if not found:
            entries.append(_entry(table.parent, cells, default))
    if faults:
        more = (
            f"; and {len(faults) - FAULTS_REPORTED} more" if len(faults) > FAULTS_REPORTED else ""
        )
        raise InputError(
            f"{path} cannot be run: {'; '.join(faults[:FAULTS_REPORTED])}{more}; correct the table,"
            " nothing was run"
        )
    return entries


def _lines(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The number of each line and its cells that are not empty."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table} is no readable table ({error}); expected text with the header"
            f" {','.join(REQUIRED_COLUMNS)}, one line a pair"
        ) from error
    missing, unknown = (
        [name for name in REQUIRED_COLUMNS if name not in columns],
        [name for name in columns if name not in COLUMNS or columns.count(name) > 1],
    )
    if missing or unknown:
        fault = (
            f"lacks the column {missing[0]}"
            if missing
            else f"has the column {unknown[0]!r}, which is unknown or there twice"
        )
        raise InputError(
            f"{table} {fault} (its first line is {','.join(columns)!r}); name its columns"
            f" {', '.join(REQUIRED_COLUMNS)} and, where wanted,"
            f" {', '.join(COLUMNS[len(REQUIRED_COLUMNS) :])}"
        )
    if not rows:
        raise InputError(f"{table} holds no pairs, only a header; add a line for each pair")
    for number, row in rows:
        if None in row or None in row.values():
            raise InputError(
                f"{table}, line {number} has not as many cells as the header ({len(columns)});"
                " correct the line, with quotes around a cell that holds a comma"
            )
    return [
        (number, {name: cell.strip() for name, cell in row.items() if cell.strip()})
        for number, row in rows
    ]


def _name_faults(cells: Mapping[str, str], taken: Mapping[str, int]) -> list[str]:
    name = cells.get("name", "")
    if not NAME.fullmatch(name) or name.casefold() in RESERVED:
        return [
            f"the name {name!r} cannot be that of a folder; use letters, digits, dots, dashes and"
            " underscores"
        ]
    return (
        [f"the name {name!r} is that of line {taken[name.casefold()]} too"]
        if name.casefold() in taken
        else []
    )


def _file_faults(folder: Path, cells: Mapping[str, str]) -> list[str]:
    files = [name for name in cells if name not in ("name", "preset")]
    return [f"{name} is missing" for name in ("fixed", "moving") if name not in cells] + [
        f"{name} {cells[name]} is no file" for name in files if not (folder / cells[name]).is_file()
    ]


def _choice_faults(cells: Mapping[str, str]) -> list[str]:
    """Landmarks in one way, and a preset that there is."""
    two, faults = [name for name in TWO_TABLES if name in cells], []
    if len(two) == 1 or (two and "landmarks" in cells):
        faults.append("give either landmarks, or both fixed_landmarks and moving_landmarks")
    if "preset" in cells:
        try:
            named_preset(cells["preset"])
        except InputError as error:
            faults.append(str(error))
    return faults


def _entry(folder: Path, cells: Mapping[str, str], default: Preset) -> Entry:
    files = {name: folder / cells[name] for name in cells if name not in ("name", "preset")}
    landmarks: dict[str, Landmarks] = {name: files[name] for name in TABLES if name in files}
    if TWO_TABLES[0] in files:
        landmarks["landmarks"] = (files[TWO_TABLES[0]], files[TWO_TABLES[1]])
    chosen = named_preset(cells["preset"]) if "preset" in cells else default
    return Entry(
        cells["name"],
        files["fixed"],
        files["moving"],
        chosen,
        files.get("fixed_mask"),
        files.get("moving_mask"),
        landmarks.get("landmarks"),
        landmarks.get("guide_landmarks"),
    )


def same_inputs(entry: Entry, inputs: Mapping[str, Any]) -> bool:
    """Whether ``inputs``, a section of config.json, are those of ``entry`` by content, wherever the
    files lie now.
    """
    paths = {name: getattr(entry, name) for name in IMAGES}
    hashes = {name: hash_file(path) if path else None for name, path in paths.items()}
    images = all(hashes[name] == (inputs[name] or {}).get("file_sha256") for name in IMAGES)
    return images and all(
        _points_hash(getattr(entry, name)) == (inputs[name] or {}).get("sha256") for name in TABLES
    )


def _points_hash(source: Landmarks | None) -> str | None:
    if source is None:
        return None
    points = _points(source)
    return str(input_entry(points, points)["sha256"])


def _points(source: Landmarks) -> tuple[Points, Points]:
    if isinstance(source, Path):
        return read_point_pairs(source)
    fixed, moving = pair_points(read_points(source[0]), read_points(source[1]))
    return fixed, replace(moving, labels=fixed.labels)
