"""How error and time grow: with the size of the image, with the points that a sampled network is
shown, and with the motion.

    python -m experiments.scaling [--quick] [--resume] [--threads 2] -o DIR

Breathing chests of one box, 384 x 288 x 384 mm, whose landmarks in the lungs move by 28 mm on
average where nothing else is said; each segment empties in its own way. Three series:

- *size*: one chest a seed at 48 to 192 voxels along its longest axis. Motion and landmarks are the
  same in all of them; the noise is 20 HU a voxel, whatever its size.
- *points*: a SIREN behind aligned masks, global correlation at 500 to 20 000 random points a step,
  600 steps, 96 voxels.
- *motion*: 5 to 45 mm, 96 voxels.

The arms of the first and the third are the preset lung, its search alone (*after graph*), and the
continuous stage of a pyramid behind aligned masks, without a search; time is that of the whole run,
loading and measuring included, or up to the end of the search. Each series has a figure of its
name, made from the table: means over the seeds. ``--quick`` takes one of the three seeds, no 192
voxels and every second motion. Nothing is held against a target.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.lung_phantoms import arms, rows
from experiments.tables import Table, study_parser, write_summary
from inrreg.objective.samplers import RandomPoints
from inrreg.optimisation import Adam, NeverStopping
from inrreg.penalties import LogJacobian
from inrreg.phantoms import lung_pair, save_pair
from inrreg.presets import Preset, preset
from inrreg.similarity import NCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.transforms import NeuralModel

LONGEST_MM = 384.0
UNEVEN = 0.5
EDGE = 96
MOTION_MM = 28
STEPS = 600
"""The box, how unevenly lungs empty (more, and chests would fold at 45 mm), and what is held still
while something else is changed.
"""
COMPARED = ("lung", "masks, continuous")
LABELS = {
    "size": "voxels along the longest axis",
    "points": "points a step",
    "motion": "mean motion, mm",
}


@dataclass(frozen=True)
class Plan:
    """The seeds, and where each series stops: voxels, points, mm."""

    seeds: tuple[int, ...]
    sizes: tuple[int, ...]
    points: tuple[int, ...]
    motions: tuple[int, ...]


FULL = Plan(
    (801, 802, 803),
    (48, 64, 96, 128, 192),
    (500, 1000, 2000, 5000, 10_000, 20_000),
    tuple(range(5, 50, 5)),
)
QUICK = replace(FULL, seeds=FULL.seeds[:1], sizes=FULL.sizes[:-1], motions=FULL.motions[::2])


@dataclass(frozen=True)
class Trial:
    """One pair and the ways it is registered; ``at`` is where it stands in its series."""

    series: str
    at: int
    seed: int
    arms: dict[str, Preset]
    edge: int = EDGE
    motion_mm: int = MOTION_MM


def trials(plan: Plan) -> Iterator[Trial]:
    """All series of one seed, then of the next."""
    compared = {name: arms()[name] for name in COMPARED}
    for seed in plan.seeds:
        yield from (Trial("size", edge, seed, compared, edge=edge) for edge in plan.sizes)
        yield from (
            Trial("points", count, seed, {"SIREN": sampled(count)}) for count in plan.points
        )
        yield from (
            Trial("motion", motion, seed, compared, motion_mm=motion) for motion in plan.motions
        )


def sampled(count: int) -> Preset:
    """The preset lung with, behind its masks, a SIREN that sees ``count`` points a step."""
    siren = Registration(
        NeuralModel(
            "siren", {"width": 128, "depth": 3, "omega": 20.0, "omega_hidden": 30.0}, scale_mm=10.0
        ),
        similarities=(NCC(),),
        penalties=(LogJacobian(0.05),),
        optimiser=Adam(1e-3, stopping=NeverStopping()),
        scales=(Scale(1, STEPS),),
        sampler=RandomPoints(count),
        penalty_sampler=RandomPoints(500),
    )
    return replace(preset("lung"), stages=(InitialTranslation(), MaskAlignment(), siren))


def chest(trial: Trial, folder: Path) -> Path:
    """The pair of a trial in ``folder``, made unless it is there."""
    target = folder / f"{trial.seed}_{trial.edge}_{trial.motion_mm}"
    if not (target / "landmarks.csv").exists():
        shape = (trial.edge, 3 * trial.edge // 4, trial.edge)
        save_pair(
            lung_pair(
                shape, LONGEST_MM / trial.edge, trial.motion_mm, seed=trial.seed, uneven=UNEVEN
            ),
            target,
        )
    return target


def study(folder: Path, plan: Plan, resume: bool, threads: int) -> Table:
    """The table, row by row."""
    table = Table(folder, ("series", "at", "seed", "arm"), resume)
    missing = [
        (trial, name)
        for trial in trials(plan)
        for name in trial.arms
        if not table.has(series=trial.series, at=trial.at, seed=trial.seed, arm=name)
    ]
    for trial, name in missing[:1]:
        # not kept: the first run on a machine compiles loops, which would stand in its time
        measured(trial, name, folder, threads)
    for trial, name in missing:
        for row in measured(trial, name, folder, threads):
            table.tell({"series": trial.series, "at": trial.at, **row})
    return table


def measured(trial: Trial, name: str, folder: Path, threads: int) -> list[dict[str, Any]]:
    """The rows of one arm of a trial."""
    return list(rows(trial.seed, chest(trial, folder / "pairs"), name, trial.arms[name], threads))


def curves(table: Table, series: str) -> dict[str, list[int]]:
    """Where each arm of a series was measured."""
    mine = [row for row in table.rows if row["series"] == series]
    return {
        arm: sorted({int(row["at"]) for row in mine if row["arm"] == arm})
        for arm in dict.fromkeys(row["arm"] for row in mine)
    }


def measures(table: Table) -> list[dict[str, Any]]:
    """Mean error and time of each arm at each place of each series."""
    entries = []
    for series in LABELS:
        for arm, places in curves(table, series).items():
            for at in places:
                for column, unit in (
                    ("mean_mm", "mean landmark error, mm"),
                    ("seconds", "time, s"),
                ):
                    entries.append(
                        {
                            "measure": f"{series} {at}, {arm}: {unit}",
                            "value": table.mean(column, series=series, at=at, arm=arm),
                            "target": None,
                            "met": None,
                        }
                    )
    return entries


def draw(table: Table, series: str, path: Path) -> None:
    """Error and time along a series, from the table."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (column, label) in zip(
        figure.subplots(1, 2),
        (("mean_mm", "mean landmark error, mm"), ("seconds", "time, s")),
        strict=True,
    ):
        for arm, places in curves(table, series).items():
            axes.plot(
                places,
                [table.mean(column, series=series, at=at, arm=arm) for at in places],
                "o-",
                label=arm,
            )
        axes.set(
            xlabel=LABELS[series], ylabel=label, xscale="log" if series == "points" else "linear"
        )
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    table = study(
        arguments.output, QUICK if arguments.quick else FULL, arguments.resume, arguments.threads
    )
    for series in LABELS:
        draw(table, series, arguments.output / f"{series}.png")
    write_summary(arguments.output, measures(table))


if __name__ == "__main__":
    main()
