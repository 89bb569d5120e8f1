"""What the presets reach on the real cases, named and default: error, Dice, folding, wall time,
peak memory.

    python -m experiments.presets [--quick] [--resume] [--threads 2] -o DIR

Each run is one call of the command line in a process of its own. The cases are the development set.
``--quick`` leaves out the brain. The result folders stay in DIR, to be looked at and scored by
others.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.cases import BRAIN, LIVER, LUNG, Case
from experiments.tables import Table, judged, study_parser, write_summary
from inrreg.app.result import load

NAMED = {
    **dict.fromkeys(LUNG, "lung"),
    **dict.fromkeys(LIVER, "liver"),
    **dict.fromkeys(BRAIN, "brain"),
}


def run(case: Case, preset: str, folder: Path, threads: int) -> dict[str, Any]:
    """Register ``case`` by the command line and score the map it saved."""
    options = ["--preset", preset, "--threads", str(threads), "--quiet"]
    for name in ("fixed-mask", "moving-mask"):
        mask = case.folder / f"{name.replace('-', '_')}.nii.gz"
        options += [f"--{name}", str(mask)] if mask.exists() else []
    started = time.perf_counter()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "inrreg.app.command_line",
            "register",
            str(case.folder / "fixed.nii.gz"),
            str(case.folder / "moving.nii.gz"),
            "-o",
            str(folder),
            *options,
        ],
        check=True,
    )
    seconds = time.perf_counter() - started
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        "seconds": seconds,
        "memory_mb": metrics["memory_mb"]["process"],
        "outcome": metrics["outcome"]["name"],
        **case.score(load(folder).transform),
    }


def claims(table: Table) -> list[dict[str, Any]]:
    """The targets, each with what was reached."""

    def liver(column: str, preset: str) -> float | None:
        return table.mean(column, anatomy="liver", preset=preset)

    def one(case: str, column: str, preset: str) -> float | None:
        return table.mean(column, case=case, preset=preset)

    lung, brain = LUNG[0], BRAIN[0]
    upper = [
        ("lung trimmed98, mm", one(lung, "L_trimmed98_mm", "lung"), 1.20),
        ("lung median, mm", one(lung, "L_median_mm", "lung"), 1.00),
        ("lung folded, %", one(lung, "folded_percent", "lung"), 0.0),
        ("lung wall time, s", one(lung, "seconds", "lung"), 120.0),
        ("liver mean error, mm", liver("liver_mean_mm", "liver"), 2.3),
        ("outside liver mean error, mm", liver("outside_mean_mm", "liver"), 2.9),
        ("liver folded, %", liver("folded_percent", "liver"), 0.1),
        ("liver wall time a pair, s", liver("seconds", "liver"), 60.0),
        ("brain 1 - Dice", _missing_dice(one(brain, "dice", "brain")), 0.26),
        ("brain folded, %", one(brain, "folded_percent", "brain"), 0.1),
        ("brain wall time, s", one(brain, "seconds", "brain"), 240.0),
        (
            "default over lung preset, trimmed98",
            _ratio(one(lung, "L_trimmed98_mm", "default"), one(lung, "L_trimmed98_mm", "lung")),
            1.25,
        ),
        (
            "default over liver preset, liver",
            _ratio(liver("liver_mean_mm", "default"), liver("liver_mean_mm", "liver")),
            1.25,
        ),
        (
            "default over liver preset, outside",
            _ratio(liver("outside_mean_mm", "default"), liver("outside_mean_mm", "liver")),
            1.25,
        ),
        (
            "default over brain preset, 1 - Dice",
            _ratio(
                _missing_dice(one(brain, "dice", "default")),
                _missing_dice(one(brain, "dice", "brain")),
            ),
            1.25,
        ),
        (
            "largest peak memory, MB",
            max((float(row["memory_mb"]) for row in table.rows), default=None),
            4096.0,
        ),
    ]
    return judged((name, value, "<=", target) for name, value, target in upper)


def _missing_dice(dice: float | None) -> float | None:
    return None if dice is None else 1 - dice


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    table = Table(arguments.output, ("case", "preset"), arguments.resume)
    for name, named in NAMED.items():
        if arguments.quick and name in BRAIN:
            continue
        for preset in (named, "default"):
            if table.has(case=name, preset=preset):
                continue
            folder = arguments.output / name.replace("/", "_") / preset
            row = {
                "case": name,
                "anatomy": named,
                "preset": preset,
                "threads": arguments.threads,
                **run(Case(name), preset, folder, arguments.threads),
            }
            table.tell(row)
    write_summary(arguments.output, claims(table))


if __name__ == "__main__":
    main()
