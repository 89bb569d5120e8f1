"""What a large pair takes: peak memory beside what was foreseen and allowed, and what importing the
package takes beyond torch.

    python -m experiments.benchmarks.footprint [--threads 1] [--resume] [--shape 512 512 128] -o DIR

- *pair*: a breathing chest of 358 x 358 x 320 mm, at 512 x 512 x 128 voxels 0.7 x 0.7 x 2.5 mm,
  with masks, by ``inrreg register --preset lung --max-memory`` with 6 GiB allowed, as a command in
  a process of its own: greatest resident memory, wall and CPU seconds, the error on the landmarks
  in the lungs, and the estimate of the memory that ``--max-memory`` is held against.
- *refusal*: the same command with nine tenths of the estimate allowed, which must end before any
  work.
- *import*: seconds that ``import inrreg`` and then the attribute ``inrreg.register``, with all that
  a registration imports, take in a process that has imported torch. Medians of seven processes.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.benchmarks.peers.cases import Benchmark
from experiments.benchmarks.peers.tools import OURS, ROOT, Ours, run
from experiments.cases import Case, saved_pair
from experiments.tables import Table, judged, study_parser, write_summary
from inrreg.app.memory import estimated_mb
from inrreg.core.errors import RegistrationError
from inrreg.evaluation import landmark_error
from inrreg.io import read_displacement, read_point_pairs
from inrreg.phantoms import lung_pair, save_pair
from inrreg.presets import preset

PRESET = "lung"
BOX_MM, MOTION_MM = (358.4, 358.4, 320.0), 20.0
ALLOWED_MB = 6 * 1024**3 / 1e6
IMPORTS = 7
IMPORTING = """
import json, time
began = [time.perf_counter()]
import torch
began.append(time.perf_counter())
import inrreg
began.append(time.perf_counter())
inrreg.register
began.append(time.perf_counter())
print(json.dumps([began[1] - began[0], began[2] - began[1], began[3] - began[1]]))
"""


@dataclass(frozen=True)
class Chest(Case):
    """The generated pair, in a folder of its own."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / self.name


@dataclass(frozen=True)
class Limited(Ours):
    """``inrreg register`` that is allowed so much memory, MB."""

    allowed_mb: float = ALLOWED_MB

    def command(self, benchmark: Benchmark, folder: Path, threads: int) -> list[str]:
        return [
            *super().command(benchmark, folder, threads),
            "--max-memory",
            f"{self.allowed_mb:.0f}",
        ]


def chest(shape: tuple[int, ...], root: Path) -> Benchmark:
    """The pair of ``shape`` in ``root``, made unless it is there."""
    case = Chest("x".join(map(str, shape)), root)
    if not (case.folder / "landmarks.csv").exists():
        save_pair(lung_pair(shape, np.array(BOX_MM) / shape, motion_mm=MOTION_MM), case.folder)
    return Benchmark(case, PRESET, ())


def estimate(benchmark: Benchmark) -> float:
    """MB that the registration is thought to need."""
    return estimated_mb(saved_pair(benchmark.case.folder), preset(PRESET))


def registered(benchmark: Benchmark, folder: Path, threads: int) -> dict[str, Any]:
    """What the run used, was thought to use, and reached."""
    used = run(Limited(OURS, PRESET), benchmark, folder, threads)
    error = (
        landmark_error(
            read_displacement(folder / "displacement.nii.gz"),
            *read_point_pairs(benchmark.case.folder / "landmarks.csv"),
        )
        .groups["lung"]
        .to_json()
    )
    return {
        "allowed_mb": ALLOWED_MB,
        "estimated_mb": estimate(benchmark),
        **used,
        "initial_mm": error["initial_mean_mm"],
        "mean_mm": error["mean_mm"],
    }


def refused(benchmark: Benchmark, folder: Path, threads: int) -> dict[str, Any]:
    """What the command says, and uses, that is allowed less than it is thought to need; it has no
    outcome if it was refused.
    """
    needed = estimate(benchmark)
    try:
        outcome = run(Limited(OURS, PRESET, 0.9 * needed), benchmark, folder, threads)["outcome"]
    except RegistrationError as error:
        outcome = f"refused: {error}" if "are allowed" in str(error) else f"failed: {error}"
    used = json.loads((folder / "usage.json").read_text(encoding="utf-8"))
    return {
        "allowed_mb": 0.9 * needed,
        "estimated_mb": needed,
        **{name: used[name] for name in ("seconds", "cpu_s", "memory_mb")},
        "outcome": outcome,
    }


def imported() -> dict[str, Any]:
    """Medians over fresh processes; the first one, which may have to write bytecode, does not
    count.
    """
    taken = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", IMPORTING],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(IMPORTS + 1)
    ]
    return {
        f"{name}_s": median(times)
        for name, times in zip(
            ("torch", "inrreg", "front_door"), zip(*taken[1:], strict=True), strict=True
        )
    }


def claims(table: Table) -> list[dict[str, Any]]:
    """What was promised of memory and of importing; without a row there is no value."""
    rows = {row["measure"]: row for row in table.rows}

    def of(measure: str, column: str) -> float | None:
        return float(rows[measure][column]) if measure in rows else None

    peak, needed = of("pair", "memory_mb"), of("pair", "estimated_mb")
    entries = [
        (
            f"peak memory of {rows['pair']['shape'] if 'pair' in rows else 'a pair'} voxels, GiB",
            None if peak is None else 1e6 * peak / 1024**3,
            "<=",
            6.0,
        ),
        (
            "estimate of the memory over its peak",
            None if peak is None or needed is None else needed / peak,
            ">=",
            1.0,
        ),
        (
            "estimate of the memory over its peak, at the most",
            None if peak is None or needed is None else needed / peak,
            "<=",
            2.0,
        ),
        (
            "nine tenths of the estimate allowed: refused before any work",
            (
                None
                if "refusal" not in rows
                else float(rows["refusal"]["outcome"].startswith("refused"))
            ),
            ">=",
            1.0,
        ),
        ("import inrreg beyond torch, s", of("import", "inrreg_s"), "<", 0.3),
        (
            "import inrreg and inrreg.register beyond torch, s",
            of("import", "front_door_s"),
            "<",
            0.3,
        ),
    ]
    return judged(entries)


def study(shape: tuple[int, ...], output: Path, *, threads: int, resume: bool) -> Table:
    """Measure what has no row yet, then judge; of a run its report and what it said are kept."""
    table = Table(output, ("measure", "shape", "threads"), resume)
    works: dict[str, Callable[[Path], dict[str, Any]]] = {
        "import": lambda folder: imported(),
        "pair": lambda folder: registered(chest(shape, output / "pairs"), folder, threads),
        "refusal": lambda folder: refused(chest(shape, output / "pairs"), folder, threads),
    }
    for measure, work in works.items():
        key = {"measure": measure, "shape": " x ".join(map(str, shape)), "threads": threads}
        if not table.has(**key):
            shutil.rmtree(output / "runs" / measure, ignore_errors=True)
            table.tell({**key, **work(output / "runs" / measure)})
    write_summary(output, claims(table))
    return table


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--shape", type=int, nargs=3, default=(512, 512, 128), help="voxels of the generated chest"
    )
    arguments = parser.parse_args()
    study(
        tuple(arguments.shape),
        arguments.output.absolute(),
        threads=arguments.threads,
        resume=arguments.resume,
    )


if __name__ == "__main__":
    main()
