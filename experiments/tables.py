"""Tables that grow row by row, so that a stopped study goes on where it was."""

import argparse
import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Claim = tuple[str, float | None, str, float]
"""A measure, its value (None where it was not run), ``<``, ``<=``, ``>`` or ``>=``, and the target.
"""
REACHED = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}


def study_parser(description: str | None) -> argparse.ArgumentParser:
    """What every study is asked: where to write, and whether to go on from what stands there."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    return parser


class Table:
    """``table.csv`` in ``folder``; rows are known by their ``key`` columns."""

    def __init__(self, folder: Path, key: tuple[str, ...], resume: bool) -> None:
        self.path, self.key = folder / "table.csv", key
        folder.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.path.unlink(missing_ok=True)
        self.rows: list[dict[str, Any]] = (
            list(csv.DictReader(self.path.open())) if self.path.exists() else []
        )

    def has(self, **key: Any) -> bool:
        """Whether a row of this key stands."""
        return any(all(row[name] == str(value) for name, value in key.items()) for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row and write the table at once."""
        self.rows.append(
            {
                name: f"{value:.4f}" if isinstance(value, float) else str(value)
                for name, value in row.items()
            }
        )
        columns = list(dict.fromkeys(name for entry in self.rows for name in entry))
        with self.path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def tell(self, row: Mapping[str, Any]) -> None:
        """Append a row and print it."""
        self.add(row)
        print(
            {
                name: round(value, 3) if isinstance(value, float) else value
                for name, value in row.items()
            },
            flush=True,
        )

    def mean(self, column: str, **where: Any) -> float | None:
        """Mean of a column over the rows that match, None where there is none."""
        values = [
            float(row[column])
            for row in self.rows
            if row.get(column) and all(row[name] == str(value) for name, value in where.items())
        ]
        return sum(values) / len(values) if values else None


def judged(claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """Each claim as ``summary.json`` has it."""
    return [
        {
            "measure": measure,
            "value": value,
            "target": f"{sign} {target:g}",
            "met": None if value is None else REACHED[sign](float(value), float(target)),
        }
        for measure, value, sign, target in claims
    ]


def write_summary(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """``summary.json``: measure, value, target and whether it is met, one entry a line of the
    study's claim.
    """
    (folder / "summary.json").write_text(json.dumps(list(entries), indent=1) + "\n")
