"""From rows of single runs to what is said of a tool: medians, ratios to the best peer, and a
bootstrap over landmarks.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.benchmarks.peers.cases import Benchmark
from experiments.benchmarks.peers.tools import OURS, PEERS

NUMBERS = (
    "seconds",
    "cpu_s",
    "memory_mb",
    "register_s",
    "main_loop_s",
    "folded_percent",
    "det_min",
)
RATIOS = ("seconds", "cpu_s", "memory_mb")
SAMPLES = 10_000

Row = Mapping[str, Any]


def medians(rows: Iterable[Row], benchmarks: Sequence[Benchmark]) -> list[dict[str, Any]]:
    """One row a case, tool and thread count: medians over its repeats, and their ratios to those of
    the best peer, the one of least error in the case's first measure.
    """
    runs = [row for row in rows if not row.get("refused")]
    summaries = []
    for benchmark in benchmarks:
        own = [row for row in runs if row["case"] == benchmark.case.name]
        found = [
            _median(benchmark, [row for row in own if (row["tool"], row["threads"]) == key])
            for key in dict.fromkeys((row["tool"], row["threads"]) for row in own)
        ]
        summaries += [{**one, **_ratios(one, found, benchmark.measures)} for one in found]
    return summaries


def _median(benchmark: Benchmark, runs: Sequence[Row]) -> dict[str, Any]:
    """The median of each number that all ``runs`` have."""
    numbers = {
        name: median(float(run[name]) for run in runs)
        for name in (*benchmark.measures, *NUMBERS)
        if all(run.get(name) for run in runs)
    }
    return {
        "case": benchmark.case.name,
        "tool": runs[0]["tool"],
        "threads": runs[0]["threads"],
        "version": runs[0]["version"],
        "repeats": len(runs),
        **numbers,
    }


def _ratios(one: Row, found: Sequence[Row], measures: Sequence[str]) -> dict[str, Any]:
    peers = [
        other for other in found if other["tool"] in PEERS and other["threads"] == one["threads"]
    ]
    if not peers:
        return {}
    best = min(peers, key=lambda other: other[measures[0]])
    return {
        "best_peer": best["tool"],
        **{
            f"{name}_over_best_peer": one[name] / best[name]
            for name in (*measures, *RATIOS)
            if best[name] > 0
        },
    }


def bootstrap(differences: Float[Tensor, " n"], generator: torch.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean of paired ``differences``, by drawing the pairs again (Efron
    1979, percentiles).
    """
    drawn = torch.randint(len(differences), (SAMPLES, len(differences)), generator=generator)
    low, high = (
        differences[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=differences.dtype))
    )
    return float(low), float(high)


def landmark_medians(folders: Iterable[Path]) -> dict[str, float]:
    """The error of each landmark in mm, its median over the repeats in ``folders``."""
    tables = [
        list(csv.DictReader((folder / "landmarks.csv").open(encoding="utf-8")))
        for folder in folders
    ]
    return {
        rows[0]["label"]: median(float(row["error_mm"]) for row in rows)
        for rows in zip(*tables, strict=True)
    }


def paired(
    ours: Mapping[str, float], theirs: Mapping[str, float], letters: str
) -> Float[Tensor, " n"]:
    """Ours - theirs in mm, of the landmarks whose labels begin with ``letters``."""
    return torch.tensor(
        [ours[label] - theirs[label] for label in ours if label.startswith(letters)],
        dtype=torch.float64,
    )


def write(rows: Sequence[Row], path: Path) -> None:
    """A table with every column that some row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {
                name: f"{value:.4f}" if isinstance(value, float) else value
                for name, value in row.items()
            }
            for row in rows
        )


def of(rows: Iterable[Row], case: str, tool: str = OURS, threads: int = 1) -> dict[str, Any]:
    """The medians of a tool on a case; empty where it was not run."""
    return next(
        (
            dict(row)
            for row in rows
            if (row["case"], row["tool"], row["threads"]) == (case, tool, str(threads))
        ),
        {},
    )
