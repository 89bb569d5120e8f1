"""What each part of the discrete search is worth: the error and time with the part, and with
another in its place.

    python -m experiments.graph_ablation [--seeds dev|test] [--quick] [--resume] [--threads 2] -o
    DIR

On the pairs of ``experiments.lung_phantoms``, after start and aligned masks. The error is that of
the landmarks in the lungs after the graph stage alone; ``no graph`` is what the start leaves. Loopy
min-sum is given a window of four steps between neighbours, which bounds its time. ``--quick`` takes
four seeds.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.cases import saved_pair
from experiments.lung_phantoms import SEEDS, phantom
from experiments.tables import Table, study_parser, write_summary
from graphreg import (
    Foerstner,
    GraphRegistration,
    Independent,
    Labels,
    LeastSquaresSpline,
    LoopyMinSum,
    MeanField,
    NearestNeighbours,
    NormalisedConvolution,
    Quadratic,
    RandomKeypoints,
    RegularKeypoints,
    Search,
)
from inrreg.core.image_pair import ImagePair
from inrreg.evaluation import landmark_error
from inrreg.io import read_point_pairs
from inrreg.objective.features import Window
from inrreg.presets import preset
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.transforms import Transform

NEIGHBOURS = NearestNeighbours(6)


def searches() -> tuple[Search, ...]:
    """Those of the preset ``lung``."""
    (stage,) = (stage for stage in preset("lung").stages if isinstance(stage, GraphRegistration))
    return stage.searches


def _each(change: Callable[[Search], Search]) -> GraphRegistration:
    return GraphRegistration(tuple(change(search) for search in searches()))


def arms() -> dict[str, GraphRegistration | None]:
    """The stage as it stands, and with one part changed."""
    whole = GraphRegistration(searches())
    return {
        "no graph": None,
        "as it stands": whole,
        "one search": GraphRegistration(searches()[:1]),
        "three searches": GraphRegistration(
            (*searches(), Search(Labels(4.0, 1.0), searches()[1].detector))
        ),
        "one way": _each(lambda search: replace(search, symmetric=False)),
        "no regularisation": _each(lambda search: replace(search, inference=Independent())),
        "nearest neighbours, loopy min-sum": _each(
            lambda search: replace(
                search,
                graph=NEIGHBOURS,
                inference=LoopyMinSum(Quadratic(0.0003, window=4), iterations=5),
            )
        ),
        "nearest neighbours, mean field": _each(
            lambda search: replace(
                search, graph=NEIGHBOURS, inference=MeanField(Quadratic(0.0003), temperature=0.003)
            )
        ),
        "Foerstner keypoints alone": _each(
            lambda search: replace(search, detector=Foerstner(2000, 4.0))
        ),
        "random keypoints": _each(lambda search: replace(search, detector=RandomKeypoints(2000))),
        "regular keypoints": _each(lambda search: replace(search, detector=RegularKeypoints(10.0))),
        "larger patches": _each(lambda search: replace(search, patch_radius=2)),
        "normalised convolution": replace(whole, densifier=NormalisedConvolution()),
        "least-squares spline": replace(whole, densifier=LeastSquaresSpline()),
    }


def prepared(folder: Path) -> tuple[ImagePair, Transform]:
    """A saved pair and its start from aligned masks."""
    pair = saved_pair(folder).prepared(Window(-1000, 200))
    return pair, MaskAlignment().run(pair, InitialTranslation().run(pair).transform).transform


def row(
    pair: ImagePair, initial: Transform, stage: GraphRegistration | None, landmarks: Path
) -> dict[str, Any]:
    """Error and time of one arm."""
    started = time.perf_counter()
    transform = initial if stage is None else stage.run(pair, initial).transform
    seconds = time.perf_counter() - started
    error = landmark_error(transform, *read_point_pairs(landmarks)).groups["lung"]
    return {
        "mean_mm": error.continuous.mean_mm,
        "median_mm": error.continuous.median_mm,
        "seconds": seconds,
    }


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--seeds", choices=sorted(SEEDS), default="dev")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(arguments.output, ("seed", "arm"), arguments.resume)
    for seed in SEEDS[arguments.seeds][: 4 if arguments.quick else None]:
        folder = phantom(seed, arguments.output / "pairs")
        pair, initial = prepared(folder)
        for name, stage in arms().items():
            if not table.has(seed=seed, arm=name):
                entry = {
                    "seed": seed,
                    "arm": name,
                    "threads": arguments.threads,
                    **row(pair, initial, stage, folder / "landmarks.csv"),
                }
                table.tell(entry)
    reached = {name: table.mean("mean_mm", arm=name) for name in arms()}
    whole = reached["as it stands"]
    entries = [
        {
            "measure": f"{name}, mean mm",
            "value": value,
            "target": "more than as it stands",
            "met": None if value is None or whole is None else value > whole,
        }
        for name, value in reached.items()
    ]
    write_summary(
        arguments.output,
        [entry for entry in entries if not entry["measure"].startswith("as it stands")],
    )


if __name__ == "__main__":
    main()
