"""What must be reached beside the peers, each with what was: measure, value, target, and whether it
is met.
"""

from collections.abc import Sequence
from typing import Any

from experiments.benchmarks.peers.compare import Row, of
from experiments.benchmarks.peers.tools import PEERS
from experiments.cases import BRAIN, LIVER, LUNG
from experiments.tables import Claim, judged

CONVEXADAM, IDIR = "convexadam", "inrreg:idir"
PATIENCE_S = 300.0
"""A peer on the brain counts if it is done within this."""


def claims(
    rows: Sequence[Row], interval_mm: tuple[float, float] | None, threads: int
) -> list[dict[str, Any]]:
    """Every claim; ``interval_mm`` is that of ours - convexAdam's on the lung landmarks.

    What was not run has no value.
    """
    entries = [
        *_lung(rows, interval_mm, threads),
        *_liver(rows, threads),
        *_brain(rows, threads),
        *_against_idir(rows, threads),
        *_machine(rows),
    ]
    return judged(entries)


def ratio(a: Row, b: Row, column: str) -> float | None:
    """None where one of them was not run, or has no such number."""
    return a[column] / b[column] if a.get(column) is not None and b.get(column) else None


def _lung(
    rows: Sequence[Row], interval_mm: tuple[float, float] | None, threads: int
) -> list[Claim]:
    ours, theirs = (of(rows, LUNG[0], tool, threads) for tool in ("inrreg", CONVEXADAM))
    return [
        (
            "lung: upper end of the paired bootstrap 95 % interval of our error - convexAdam's, mm",
            None if interval_mm is None else interval_mm[1],
            "<",
            0.05,
        ),
        ("lung: trimmed98 over convexAdam's", ratio(ours, theirs, "L_trimmed98_mm"), "<", 1.0),
        ("lung: wall time over convexAdam's", ratio(ours, theirs, "seconds"), "<=", 0.5),
    ]


def _liver(rows: Sequence[Row], threads: int) -> list[Claim]:
    ours, theirs = (
        _mean([of(rows, case, tool, threads) for case in LIVER]) for tool in ("inrreg", CONVEXADAM)
    )
    return [
        (
            "liver, mean of four pairs: liver error over convexAdam's",
            ratio(ours, theirs, "liver_mean_mm"),
            "<",
            1.0,
        ),
        (
            "liver, mean of four pairs: outside error over convexAdam's",
            ratio(ours, theirs, "outside_mean_mm"),
            "<",
            1.0,
        ),
        (
            "liver, mean of four pairs: wall time over convexAdam's",
            ratio(ours, theirs, "seconds"),
            "<=",
            1.0,
        ),
    ]


def _mean(rows: Sequence[Row]) -> dict[str, float]:
    """The mean of each number over ``rows``; empty unless all of them were run."""
    return (
        {}
        if not all(rows)
        else {
            name: sum(row[name] for row in rows) / len(rows)
            for name in ("liver_mean_mm", "outside_mean_mm", "seconds")
        }
    )


def _brain(rows: Sequence[Row], threads: int) -> list[Claim]:
    ours = of(rows, BRAIN[0], threads=threads)
    peers = [
        row
        for row in (of(rows, BRAIN[0], tool, threads) for tool in PEERS)
        if row and row["seconds"] <= PATIENCE_S
    ]
    best = min(peers, key=lambda row: row["missing_dice"], default={})
    gained = best["missing_dice"] - ours["missing_dice"] if ours and best else None
    return [
        ("brain: Dice - that of the best peer within 5 minutes", gained, ">", 0.0),
        ("brain: folded, %", ours.get("folded_percent"), "<=", 0.05),
        (
            "brain: wall time over that of the best peer within 5 minutes",
            ratio(ours, best, "seconds"),
            "<=",
            0.5,
        ),
    ]


def _against_idir(rows: Sequence[Row], threads: int) -> list[Claim]:
    ours, theirs = (of(rows, LUNG[0], tool, threads) for tool in ("inrreg", IDIR))
    return [
        (
            "lung: mean error over that of the IDIR-like preset",
            ratio(ours, theirs, "L_mean_mm"),
            "<=",
            1.0,
        ),
        (
            "lung: CPU time of the IDIR-like preset over ours",
            ratio(theirs, ours, "cpu_s"),
            ">=",
            20.0,
        ),
    ]


def _machine(rows: Sequence[Row]) -> list[Claim]:
    one, two = (of(rows, LUNG[0], threads=threads) for threads in (1, 2))
    memory = one.get("memory_mb")
    return [
        (
            "lung: main loop on one thread over that on two",
            ratio(one, two, "main_loop_s"),
            ">=",
            1.6,
        ),
        ("lung: peak memory, GiB", None if memory is None else memory * 1e6 / 2**30, "<=", 1.5),
    ]
