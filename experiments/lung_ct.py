"""What a preset reaches on the public lung CT benchmarks: DIR-Lab 4DCT and COPDgene, Learn2Reg
LungCT and NLST.

    python -m experiments.lung_ct --data DIR [--preset lung] [--quick] [--resume] [--threads 2] -o
    OUT

DIR, or folders below it, hold the data as their owners distribute them; whatever is there is run.
DIR-Lab is registered from inhale (fixed) to exhale, Learn2Reg from its image 0000 (fixed; exhale in
LungCT) to 0001. Landmarks judge and are not seen. Errors are given in both conventions: where a
fixed landmark is mapped to, and that point rounded to the nearest moving voxel. ``--quick`` takes
the first two cases of each cohort.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.tables import Table, study_parser, write_summary
from inrreg import register
from inrreg.core.errors import InputError
from inrreg.core.image import Image, Points
from inrreg.evaluation import landmark_error
from inrreg.io.dirlab import dirlab_cases, read_dirlab
from inrreg.io.dirlab_tables import CASES
from inrreg.io.learn2reg import PairFiles, learn2reg_pairs, read_learn2reg
from inrreg.presets import Preset
from inrreg.presets import preset as named_preset

QUICK = 2
TARGETS = (
    ("4DCT", "snapped_mean_mm", 0.92, "pTVreg"),
    ("4DCT", "mean_mm", 1.36, "vroc, variational"),
    ("COPDgene", "snapped_mean_mm", 0.846, "pTVreg"),
    (
        "COPDgene",
        "snapped_mean_mm",
        0.82,
        "best conventional method as Lung250M-4B quotes it, convention not said",
    ),
)
"""Best published means over the ten cases, as read in the repositories of those methods.

For Learn2Reg there is none that was read.
"""


@dataclass(frozen=True, eq=False)
class Loaded:
    """What is registered and what judges it."""

    fixed: Image
    moving: Image
    masks: tuple[Image | None, Image | None]
    landmarks: tuple[Points, Points]
    kind: str
    initial_mm: float


@dataclass(frozen=True)
class Case:
    """One pair at hand, not yet loaded: a DIR-Lab case in ``source``, or a pair of Learn2Reg."""

    cohort: str
    name: str
    source: Path | PairFiles

    def load(self) -> Loaded:
        if isinstance(self.source, PairFiles):
            pair = read_learn2reg(self.source)
            return Loaded(
                pair.fixed,
                pair.moving,
                (pair.fixed_mask, pair.moving_mask),
                (pair.fixed_points, pair.moving_points),
                pair.points_kind,
                pair.initial_mm,
            )
        case = read_dirlab(self.source, self.name)
        return Loaded(
            case.fixed,
            case.moving,
            (None, None),
            (case.fixed_landmarks, case.moving_landmarks),
            "landmarks",
            case.initial_mm,
        )


def cases(data: Path) -> list[Case]:
    """All pairs that ``data`` holds and points can judge, cohort by cohort.

    Raises:
        InputError: there are none, or two of one name.
    """
    found = [Case(CASES[name].cohort, name, data) for name in dirlab_cases(data)]
    for folder in _tasks(data):
        found += [Case(pair.task, pair.name, pair) for pair in _judged(learn2reg_pairs(folder))]
    if not found:
        raise InputError(
            f"{data} holds neither DIR-Lab cases (case1_T00*.img, copd1_iBHCT.img) nor a Learn2Reg"
            " task (imagesTr); give the folder in which their archives were unpacked"
        )
    names = [(case.cohort, case.name) for case in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{data} holds {len(twice)} pairs more than once, such as {' '.join(twice[0])}; give a"
            " folder that holds each once"
        )
    return found


def _judged(pairs: list[PairFiles]) -> list[PairFiles]:
    """Those with points of any kind: the challenge keeps the points of its test pairs to itself."""
    judged = [
        pair
        for pair in pairs
        if any(
            path.is_file()
            for kind in ("landmarks", "keypoints")
            for path in pair.beside(kind, ".csv")
        )
    ]
    if len(judged) < len(pairs):
        print(
            f"{len(pairs) - len(judged)} pairs of {pairs[0].task} have neither landmarks nor"
            " keypoints and are left out",
            flush=True,
        )
    return judged


def _tasks(data: Path) -> Iterator[Path]:
    """The folders of Learn2Reg tasks: where images for training or testing lie."""
    yield from sorted(
        {
            folder.parent
            for pattern in ("imagesTr", "imagesTs")
            for folder in data.rglob(pattern)
            if folder.is_dir()
        }
    )


def run(case: Case, preset: Preset, threads: int) -> dict[str, Any]:
    """Register a case and score the map; the seconds are those of ``register`` alone."""
    loaded = case.load()
    started = time.perf_counter()
    result = register(
        loaded.fixed,
        loaded.moving,
        preset=preset,
        fixed_mask=loaded.masks[0],
        moving_mask=loaded.masks[1],
        threads=threads,
    )
    seconds = time.perf_counter() - started
    error = landmark_error(result.transform, *loaded.landmarks, loaded.moving.grid).all
    assert error.snapped is not None
    return {
        "points": loaded.kind,
        "n": error.continuous.n,
        "initial_mm": loaded.initial_mm,
        "mean_mm": error.continuous.mean_mm,
        "snapped_mean_mm": error.snapped.mean_mm,
        "median_mm": error.continuous.median_mm,
        "above_2mm_percent": error.continuous.above_2mm_percent,
        "folded_percent": float(result.metrics.jacobian.folded_percent),
        "det_min": float(result.metrics.jacobian.min),
        "outcome": result.metrics.outcome.name,
        "seconds": seconds,
    }


def claims(table: Table, preset: str, complete: dict[str, bool]) -> list[dict[str, Any]]:
    """Means a cohort; against a published figure only where every case of the cohort was run."""
    entries = []
    for cohort, whole in complete.items():
        n = sum(row["cohort"] == cohort and row["preset"] == preset for row in table.rows)
        for column in (
            "initial_mm",
            "mean_mm",
            "snapped_mean_mm",
            "median_mm",
            "above_2mm_percent",
            "folded_percent",
            "seconds",
        ):
            value = table.mean(column, cohort=cohort, preset=preset)
            figures: list[tuple[float | None, str]] = [
                (figure, source)
                for name, measure, figure, source in TARGETS
                if (name, measure) == (cohort, column)
            ]
            for figure, source in figures or [(None, "")]:
                met = None if value is None or figure is None or not whole else value <= figure
                target = None if figure is None else f"<= {figure:g} ({source})"
                entries.append(
                    {
                        "measure": f"{cohort} {column}, mean over cases",
                        "preset": preset,
                        "cases": n,
                        "whole_cohort": whole,
                        "value": value,
                        "target": target,
                        "met": met,
                    }
                )
    return entries


def study(
    data: Path,
    output: Path,
    preset: Preset,
    *,
    quick: bool = False,
    resume: bool = False,
    threads: int = 2,
) -> Table:
    """Run what is at hand, a row a case, and write the summary."""
    found = cases(data)
    cohorts: dict[str, list[Case]] = {}
    for case in found:
        cohorts.setdefault(case.cohort, []).append(case)
    table = Table(output, ("cohort", "case", "preset"), resume)
    for members in cohorts.values():
        for case in members[:QUICK] if quick else members:
            key = {"cohort": case.cohort, "case": case.name, "preset": preset.name}
            if table.has(**key):
                continue
            row = {**key, "threads": threads, **run(case, preset, threads)}
            table.tell(row)
    complete = {
        cohort: _complete(cohort, members, table, preset.name)
        for cohort, members in cohorts.items()
    }
    write_summary(output, claims(table, preset.name, complete))
    return table


def _complete(cohort: str, members: list[Case], table: Table, preset: str) -> bool:
    """Whether there is a row for each case of the cohort: in DIR-Lab for all that were
    published.
    """
    names = [name for name, entry in CASES.items() if entry.cohort == cohort] or [
        case.name for case in members
    ]
    return all(table.has(cohort=cohort, case=name, preset=preset) for name in names)


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--preset", default="lung")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    study(
        arguments.data,
        arguments.output,
        named_preset(arguments.preset),
        quick=arguments.quick,
        resume=arguments.resume,
        threads=arguments.threads,
    )


if __name__ == "__main__":
    main()
