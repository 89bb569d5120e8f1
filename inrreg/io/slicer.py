"""3D Slicer's point lists: markups (``.mrk.json``), read and written, and its older ``.fcsv``, read
only.
"""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from inrreg.core.errors import InputError, OutputError
from inrreg.core.image import Points
from inrreg.io.lps import flip

SCHEMA = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/markups-schema-v1.0.3.json#"
IS_LPS = {"LPS": True, "1": True, "RAS": False, "0": False}
"""Slicer's names of the frames, and the numbers that its versions before 4.11 wrote."""


def read(path: Path) -> Points:
    """The control points of a markups file or an ``.fcsv``, in RAS mm whatever frame the file
    names.

    Raises:
        InputError: a file that is damaged, of an unknown frame, or holds no placed points.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is no readable point list ({error}); check that it was copied whole"
        ) from error
    frame, labels, positions = (
        _fcsv(text, path) if path.suffix.lower() == ".fcsv" else _markups(text, path)
    )
    if str(frame).upper() not in IS_LPS:
        raise InputError(f"{path} names the frame {frame!r}; expected LPS or RAS")
    coords = _coordinates(positions, labels, path)
    return Points.from_array(
        flip(coords) if IS_LPS[str(frame).upper()] else coords, labels, str(path)
    )


def write(points: Points, path: Path) -> None:
    """Write points as a markups file, in LPS mm as Slicer does.

    Raises:
        InputError: points in 2-D, which Slicer does not have.
        OutputError: the file cannot be written, or is an ``.fcsv``.
    """
    if path.suffix.lower() == ".fcsv":
        raise OutputError(f"{path}: Slicer gives up the .fcsv format; write .mrk.json")
    if points.coords.shape[1] != 3:
        raise InputError(
            f"{points.name} are points in 2-D, and Slicer's are in 3-D; write {path.name} as .csv"
        )
    positions = flip(points.coords.detach().cpu().numpy()).tolist()
    controls = [
        {"id": str(i), "label": label, "position": p}
        for i, (label, p) in enumerate(zip(points.labels, positions, strict=True), start=1)
    ]
    markup = {
        "type": "Fiducial",
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "controlPoints": controls,
    }
    try:
        path.write_text(
            json.dumps({"@schema": SCHEMA, "markups": [markup]}, indent=1) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({error.strerror}); check that its folder exists and has"
            " room"
        ) from error


def _markups(text: str, path: Path) -> tuple[Any, list[str], list[Any]]:
    """Frame, labels and positions as a markups file has them."""
    try:
        (markup,) = json.loads(text)["markups"]
        controls = [
            (str(c.get("label") or i), _placed(c))
            for i, c in enumerate(markup["controlPoints"], start=1)
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no markups file with one list of control points ({error}); save the list by"
            " itself from Slicer"
        ) from error
    if markup.get("coordinateUnits", "mm") != "mm":
        raise InputError(f"{path} has its points in {markup['coordinateUnits']!r}; save them in mm")
    return (
        markup.get("coordinateSystem", "LPS"),
        [label for label, _ in controls],
        [position for _, position in controls],
    )


def _placed(control: dict[str, Any]) -> Any:
    """The position of a control point, None where Slicer's user has not set it yet."""
    return (
        control.get("position") if control.get("positionStatus", "defined") == "defined" else None
    )


def _fcsv(text: str, path: Path) -> tuple[str, list[str], list[Any]]:
    """Frame, labels and positions as an ``.fcsv`` has them; its header is comments of the form ``#
    key = value``.
    """
    lines = text.splitlines()
    header = dict(
        line[1:].replace(" ", "").split("=", 1)
        for line in lines
        if line.startswith("#") and "=" in line
    )
    columns = header.get("columns", "").split(",")
    if "CoordinateSystem" not in header or not {"x", "y", "z"} <= set(columns):
        raise InputError(
            f"{path} lacks the lines `# CoordinateSystem = ...` and `# columns = ...,x,y,z,...` of"
            " an .fcsv; save it from Slicer again, best as .mrk.json"
        )
    rows = [
        dict(zip(columns, cells, strict=False))
        for cells in csv.reader(line for line in lines if line.strip() and not line.startswith("#"))
    ]
    return (
        header["CoordinateSystem"],
        [row.get("label") or str(i) for i, row in enumerate(rows, start=1)],
        [[row.get(axis) for axis in "xyz"] for row in rows],
    )


def _coordinates(positions: list[Any], labels: list[str], path: Path) -> np.ndarray:
    """``[n, 3]`` numbers."""
    if not positions:
        raise InputError(
            f"{path} holds no control points; place some, or check that it is the right file"
        )
    for label, position in zip(labels, positions, strict=True):
        if not _is_position(position):
            raise InputError(
                f"{path}: control point {label} has the position {position!r}, not three numbers;"
                " place it in Slicer or delete it"
            )
    return np.array(positions, dtype=np.float64)


def _is_position(position: Any) -> bool:
    try:
        numbers = np.array(position, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return numbers.shape == (3,) and bool(np.isfinite(numbers).all())
