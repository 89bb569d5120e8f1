"""Ours and the peers on the same cases, one process at a time, with the same thread count: error,
Dice, folding, wall and CPU time, peak memory.

    python -m experiments.benchmarks.peers [--cases NAME ...] [--tools NAME ...] [--threads 1]
    [--repeats 3] [--resume] [--data DIR] [--peers-python PYTHON] -o DIR

Ours is ``inrreg register`` with the preset of the anatomy (``inrreg:PRESET`` with another one); the
peers are convexadam, elastix, greedy and ants in their recommended settings, each run by PYTHON,
where they are installed: pip install torch convexAdam itk-elastix picsl-greedy antspyx. A peer that
is not there is a row with the reason. All start from the translation between the mask centroids,
where there are masks. Every field is judged by the same code as it lies on the fixed grid. Seconds,
CPU seconds and memory are those of the whole process, ``register_s`` is the registration alone.
Repeats go round all tools, so that a slow hour of the machine meets all of them. ``table.csv`` has
a row a run, ``medians.csv`` their medians with ratios to the best peer, ``summary.json`` the
targets. With ``--resume --threads 2`` into the same DIR the speed-up by a second thread is said
too.
"""

import csv
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.peers import cases, tools
from experiments.benchmarks.peers.cases import Benchmark
from experiments.benchmarks.peers.claims import CONVEXADAM, claims
from experiments.benchmarks.peers.compare import bootstrap, landmark_medians, medians, paired, write
from experiments.benchmarks.peers.tools import OURS, PEERS, Tool
from experiments.cases import LUNG
from experiments.tables import Table, study_parser, write_summary
from inrreg.core.errors import RegistrationError
from inrreg.evaluation import landmark_distances
from inrreg.io import read_displacement, read_point_pairs


def place(output: Path, case: str, tool: str, threads: int, repeat: int) -> Path:
    """Where a run is kept."""
    return (
        output
        / "runs"
        / case.replace("/", "_")
        / tool.replace(":", "_")
        / f"{threads}_threads_{repeat}"
    )


def score(benchmark: Benchmark, folder: Path) -> dict[str, float]:
    """The errors of the dense field in ``folder``; those of each landmark go to ``landmarks.csv``
    there.
    """
    field = read_displacement(folder / "displacement.nii.gz")
    table = benchmark.case.folder / "landmarks.csv"
    if table.exists():
        fixed, moving = read_point_pairs(table)
        with (folder / "landmarks.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows(
                [
                    ("label", "error_mm"),
                    *zip(
                        fixed.labels, landmark_distances(field, fixed, moving).tolist(), strict=True
                    ),
                ]
            )
    scores = benchmark.case.score(field)
    return {**scores, "missing_dice": 1 - scores["dice"]} if "dice" in scores else scores


def row(tool: Tool, benchmark: Benchmark, folder: Path, threads: int) -> dict[str, Any]:
    """What a run used and reached, or why there is none."""
    if reason := tool.refusal():
        return {"refused": reason}
    shutil.rmtree(folder, ignore_errors=True)
    try:
        return {
            "refused": "",
            **tools.run(tool, benchmark, folder, threads),
            **score(benchmark, folder),
        }
    except RegistrationError as error:
        return {"refused": str(error)}


def keep(folder: Path, field: bool) -> None:
    """Leave what was said and the landmark errors of a run, and its field where asked."""
    kept = {"landmarks.csv", "said.txt", "usage.json", *(["displacement.nii.gz"] if field else [])}
    for path in folder.iterdir() if folder.exists() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in kept:
            path.unlink()


def interval(table: Table, output: Path, threads: int) -> tuple[float, float] | None:
    """The 95 % interval of our error - convexAdam's on the lung landmarks, mm; None unless both
    were run.
    """
    ran = {
        tool: [
            r
            for r in table.rows
            if (r["case"], r["tool"], r["threads"]) == (LUNG[0], tool, str(threads))
            and not r["refused"]
        ]
        for tool in (OURS, CONVEXADAM)
    }
    if not all(ran.values()):
        return None
    ours, theirs = (
        landmark_medians(place(output, LUNG[0], tool, threads, int(r["repeat"])) for r in rows)
        for tool, rows in ran.items()
    )
    return bootstrap(paired(ours, theirs, "L"), torch.Generator().manual_seed(0))


def study(
    benchmarks: list[Benchmark],
    chosen: list[Tool],
    output: Path,
    *,
    threads: int,
    repeats: int,
    resume: bool,
) -> Table:
    """Run what has no row yet, then compare."""
    table, session = (
        Table(output, ("case", "tool", "threads", "repeat"), resume),
        time.strftime("%Y-%m-%dT%H:%M:%S"),
    )
    table.rows = [r for r in table.rows if not r["refused"]]  # what was refused is tried again
    for repeat in range(1, repeats + 1):
        for benchmark in benchmarks:
            for tool in chosen:
                key = {
                    "case": benchmark.case.name,
                    "tool": tool.name,
                    "threads": threads,
                    "repeat": repeat,
                }
                refused = any(
                    r["refused"] and (r["case"], r["tool"]) == (benchmark.case.name, tool.name)
                    for r in table.rows
                )
                if table.has(**key) or refused:
                    continue
                folder = place(output, benchmark.case.name, tool.name, threads, repeat)
                found = {
                    **key,
                    "anatomy": benchmark.anatomy,
                    "session": session,
                    **row(tool, benchmark, folder, threads),
                }
                keep(folder, field=repeat == 1)
                table.tell(found)
    summaries = medians(table.rows, benchmarks)
    write(summaries, output / "medians.csv")
    write_summary(output, claims(summaries, interval(table, output, threads), threads))
    return table


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--cases", nargs="+", default=list(cases.GROUPS), metavar="NAME")
    parser.add_argument("--tools", nargs="+", default=[OURS, *PEERS], metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of the shared cases; else the environment variable INRREG_DATA names it",
    )
    parser.add_argument("--peers-python", default=sys.executable, metavar="PYTHON")
    arguments = parser.parse_args()
    if arguments.data is not None:
        os.environ["INRREG_DATA"] = str(arguments.data.absolute())
    output, python = (
        arguments.output.absolute(),
        Path(shutil.which(arguments.peers_python) or arguments.peers_python).absolute(),
    )
    benchmarks, chosen = (
        cases.chosen(arguments.cases, output / "phantoms"),
        tools.chosen(arguments.tools, str(python)),
    )
    for benchmark in benchmarks:
        # data that are not at hand are told before anything is run, and phantoms are made
        benchmark.files()
    study(
        benchmarks,
        chosen,
        output,
        threads=arguments.threads,
        repeats=arguments.repeats,
        resume=arguments.resume,
    )


if __name__ == "__main__":
    main()
