"""Large lung motion on breathing phantoms: what the discrete search finds, what refinement adds,
and what the continuous stage does without either.

    python -m experiments.lung_phantoms [--seeds test|dev] [--quick] [--resume] [--threads 2] -o DIR

Both lungs of another patient a seed, 160 x 128 x 160 voxels of 2 mm, masks given; landmarks move by
28 mm on average, at most by 48 to 73 mm, and each lung segment empties in its own way. An arm is a
preset, or a part of the lung preset: ``headers, continuous`` has the continuous stage start where
the headers put the images, ``masks, continuous`` where the masks do, both with the pyramid that the
preset had before it searched. ``--quick`` takes four seeds. ``hashes.json`` beside this file tells
whether a pair is the one that was meant.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.cases import saved_pair
from experiments.tables import Table, judged, study_parser, write_summary
from inrreg import Result, register
from inrreg.io import read_image, read_point_pairs
from inrreg.objective.samplers import WholeGrid
from inrreg.optimisation import Adam
from inrreg.penalties import Bending, Folding
from inrreg.phantoms import lung_pair, save_pair
from inrreg.presets import Preset, preset
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.transforms import FreeForm

SEEDS = {"test": (*range(1000, 1008), 1009, 1010), "dev": (201, 202, 203, 204)}
"""Settings are chosen on ``dev`` and on the real cases; ``test`` only says what they reach.

The lungs of seed 1008 are too flat to move by 28 mm.
"""
HASHES = Path(__file__).with_name("hashes.json")


def phantom(seed: int, folder: Path) -> Path:
    """The pair of ``seed`` in ``folder``, made unless it is there."""
    target = folder / str(seed)
    if not (target / "landmarks.csv").exists():
        save_pair(lung_pair((160, 128, 160), 2.0, motion_mm=28.0, seed=seed, uneven=0.7), target)
    return target


def digest(pair: Path) -> str:
    """SHA-256 of the landmarks to 0.01 mm and of both images to whole HU."""
    total = hashlib.sha256()
    for points in read_point_pairs(pair / "landmarks.csv"):
        total.update((100 * points.coords).round().to(torch.int32).numpy().tobytes())
    for name in ("fixed", "moving"):
        total.update(
            read_image(pair / f"{name}.nii.gz").data.round().to(torch.int16).numpy().tobytes()
        )
    return total.hexdigest()


def arms() -> dict[str, Preset]:
    """Each way to register a pair."""
    lung = preset("lung")
    pyramid = Registration(
        FreeForm(24.0),
        similarities=(LNCC(9.0),),
        penalties=(Bending(10.0), Folding(1.0)),
        optimiser=Adam(0.5),
        scales=(Scale(8, 60), Scale(4, 60, 12.0), Scale(1.4, 60, 6.0)),
        penalty_sampler=WholeGrid(4.0),
        mask_margin_mm=4.0,
    )
    return {
        "lung": lung,
        "masks, continuous": replace(lung, stages=(InitialTranslation(), MaskAlignment(), pyramid)),
        "headers, continuous": replace(lung, stages=(InitialTranslation(), pyramid)),
    }


def run(pair: Path, chosen: Preset, threads: int) -> Result:
    """Register a saved pair."""
    case = saved_pair(pair)
    return register(
        case.fixed,
        case.moving,
        preset=chosen,
        fixed_mask=case.fixed_mask,
        moving_mask=case.moving_mask,
        landmarks=pair / "landmarks.csv",
        threads=threads,
    )


def rows(
    seed: int, pair: Path, name: str, chosen: Preset, threads: int
) -> Iterator[dict[str, Any]]:
    """The error on the landmarks in the lungs after the last stage, and after the graph where there
    is one.
    """
    started = time.perf_counter()
    metrics = run(pair, chosen, threads).metrics.to_json()
    seconds = time.perf_counter() - started
    common = {
        "seed": seed,
        "threads": threads,
        "folded_percent": metrics["jacobian"]["folded_percent"],
    }
    for i, stage in enumerate(metrics["stages"]):
        last = i == len(metrics["stages"]) - 1
        if not last and stage["name"] != "graph":
            continue
        error = stage["landmarks"]["groups"]["lung"]
        spent = seconds if last else sum(each["seconds"] for each in metrics["stages"][: i + 1])
        yield {
            **common,
            "arm": name if last else f"{name}, after graph",
            "initial_mm": error["initial_mean_mm"],
            "mean_mm": error["mean_mm"],
            "median_mm": error["median_mm"],
            "seconds": spent,
        }


def claims(table: Table) -> list[dict[str, Any]]:
    """What the set must be, and what must be reached on it."""

    def worst(arm: str, column: str = "mean_mm") -> float | None:
        return max((float(row[column]) for row in table.rows if row["arm"] == arm), default=None)

    entries = [
        (
            "continuous alone from the headers, mean mm",
            table.mean("mean_mm", arm="headers, continuous"),
            ">",
            3.0,
        ),
        (
            "continuous alone from aligned masks, mean mm",
            table.mean("mean_mm", arm="masks, continuous"),
            ">",
            3.0,
        ),
        ("after graph, mean mm", table.mean("mean_mm", arm="lung, after graph"), "<=", 1.5),
        ("after graph, worst seed mm", worst("lung, after graph"), "<=", 2.5),
        ("refined, mean mm", table.mean("mean_mm", arm="lung"), "<=", 0.9),
        ("refined, worst seed mm", worst("lung"), "<=", 1.5),
        ("slowest run, s", worst("lung", "seconds"), "<=", 150.0),
    ]
    return judged(entries)


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--seeds", choices=sorted(SEEDS), default="test")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    table = Table(arguments.output, ("seed", "arm"), arguments.resume)
    meant = json.loads(HASHES.read_text())
    seeds = SEEDS[arguments.seeds][: 4 if arguments.quick else None]
    pairs = {seed: phantom(seed, arguments.output / "pairs") for seed in seeds}
    for seed, pair in pairs.items():
        if digest(pair) != meant[str(seed)]:
            print(
                f"seed {seed}: not bit for bit the pair that was meant; this machine rounds in"
                " another way, so its figures may differ a little"
            )
    for name, chosen in arms().items():
        for seed, pair in pairs.items():
            if not table.has(seed=seed, arm=name):
                for row in rows(seed, pair, name, chosen, arguments.threads):
                    table.tell(row)
    write_summary(arguments.output, claims(table))


if __name__ == "__main__":
    main()
