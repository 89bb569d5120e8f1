"""Does a learned regulariser, trained on phantoms without their truth, help a discrete search as
min-sum does?

    python -m experiments.graphregnet [--quick] [--resume] [--seeds test|dev] [--model FILE] -o DIR

Chests breathe by 25 mm, unevenly; their masks are aligned first, then one search of 32 mm in steps
of 4 is made, one way, by each inference on the same costs. GraphRegNet is trained in DIR on seeds
300 to 315 (or taken from ``--model``) and compared on seeds 400 to 407, or on seeds 500 and 501, on
which everything was tuned. ``--quick`` trains on 4 pairs for a few epochs and compares on 2.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.tables import Table, study_parser, write_summary
from graphreg import (
    Foerstner,
    GraphRegistration,
    Independent,
    Labels,
    MeanField,
    NearestNeighbours,
    Quadratic,
    Search,
    TreeMinSum,
)
from graphreg.graphregnet import (
    Architecture,
    GraphRegNet,
    LearnedInference,
    load_network,
    save_network,
)
from graphreg.graphregnet_training import Training, train
from inrreg.app.register import run_stages
from inrreg.core.image import Points
from inrreg.core.image_pair import ImagePair
from inrreg.objective.features import Window
from inrreg.phantoms import lung_pair
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.transforms import Transform
from inrreg.transforms.composite import simplified

TRAINING = range(300, 316)
HELD_OUT = range(400, 408)
DEV = range(500, 502)
SEARCH = Search(Labels(32.0, 4.0), Foerstner(2000, 6.0), NearestNeighbours(10), symmetric=False)
ARCHITECTURE = Architecture()
SCHEDULE = Training()


@dataclass(frozen=True, eq=False)
class Trial:
    """A phantom after its masks were aligned by ``initial``: ``targets`` are where the truth puts
    the keypoints of the search, mm.
    """

    pair: ImagePair
    initial: Transform
    keypoints: Float[Tensor, "n 3"]
    targets: Float[Tensor, "n 3"]
    landmarks: tuple[Points, Points]


def trial(seed: int, folder: Path) -> Trial:
    """The phantom of ``seed``, made once and kept in ``folder``."""
    path = folder / "phantoms" / f"{seed}.pt"
    if path.exists():
        return Trial(**torch.load(path, weights_only=False))
    phantom = lung_pair(shape=(96, 80, 96), spacing=3.0, motion_mm=25.0, seed=seed, uneven=0.6)
    pair = ImagePair(
        phantom.fixed, phantom.moving, phantom.fixed_mask.mask(), phantom.moving_mask.mask()
    ).prepared(Window(-1000, 200))
    initial = simplified(
        run_stages((InitialTranslation(), MaskAlignment()), pair, None)[-1].transform
    ).requires_grad_(False)
    frame = SEARCH.frame(pair, initial)
    keypoints = SEARCH.detector(frame.fixed, frame.mask, torch.Generator())
    made = Trial(
        pair,
        initial,
        keypoints,
        phantom.truth(keypoints.double()).float(),
        _in_lungs(phantom.fixed_landmarks, phantom.moving_landmarks),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(vars(made), part)
    part.replace(path)
    return made


def _in_lungs(fixed: Points, moving: Points) -> tuple[Points, Points]:
    inside = [i for i, label in enumerate(fixed.labels) if label.startswith("lung")]
    return Points(fixed.coords[inside]), Points(moving.coords[inside])


def trained(
    seeds: range, folder: Path, schedule: Training, resume: bool
) -> tuple[GraphRegNet, float]:
    """The network, trained in ``folder``, and the seconds that took in this run."""
    trials = [trial(seed, folder) for seed in seeds]
    started = time.perf_counter()
    checkpoint = folder / "training.safetensors"
    model = train(
        [t.pair for t in trials],
        SEARCH,
        schedule,
        ARCHITECTURE,
        initial=[t.initial for t in trials],
        checkpoint=checkpoint,
        resume=resume,
    )
    notes = {
        "trained on": (
            f"phantoms: inrreg.phantoms.lung_pair, 25 mm, uneven 0.6, seeds {seeds.start} to"
            f" {seeds.stop - 1}; no image of a patient"
        ),
        "by": "python -m experiments.graphregnet",
        "schedule": str(schedule),
    }
    save_network(model, folder / "graphregnet.safetensors", notes)
    return model, time.perf_counter() - started


def arms(model: GraphRegNet) -> dict[str, Search]:
    """The same search with each inference; the weights are those best on the tuning seeds."""
    return {
        "none": replace(SEARCH, inference=Independent()),
        "tree min-sum": Search(
            SEARCH.labels, SEARCH.detector, inference=TreeMinSum(Quadratic(0.01)), symmetric=False
        ),
        "mean field": replace(SEARCH, inference=MeanField(Quadratic(0.001))),
        "GraphRegNet": replace(
            SEARCH, inference=LearnedInference(model), temperature=model.architecture.unit
        ),
    }


def compared(case: Trial, search: Search) -> dict[str, Any]:
    """Errors of one search, mm, at its keypoints as found and at the landmarks after a thin-plate
    spline was drawn through them.
    """
    result = GraphRegistration((search,)).run(case.pair, case.initial)
    found = result.correspondences
    assert found is not None
    assert torch.equal(found.fixed.coords.float(), case.keypoints)
    errors = (found.moving.coords - case.targets).norm(dim=1)
    with torch.no_grad():
        landmarks = (result.transform(case.landmarks[0].coords) - case.landmarks[1].coords).norm(
            dim=1
        )
        before = (case.initial(case.landmarks[0].coords) - case.landmarks[1].coords).norm(dim=1)
    return {
        "keypoints": len(errors),
        "keypoint_mean_mm": float(errors.mean()),
        "keypoint_median_mm": float(errors.median()),
        "landmark_mean_mm": float(landmarks.mean()),
        "landmark_median_mm": float(landmarks.median()),
        "aligned_landmark_mean_mm": float(before.mean()),
        "seconds": result.seconds,
    }


def claims(table: Table, seconds: float | None) -> list[dict[str, Any]]:
    """The targets, each with what was reached: the mean error over that of another inference."""
    entries = []
    for what in ("keypoint_mean_mm", "keypoint_median_mm", "landmark_mean_mm"):
        learned = table.mean(what, arm="GraphRegNet")
        for other, limit in (("none", 1.0), ("tree min-sum", 1.15), ("mean field", None)):
            theirs = table.mean(what, arm=other)
            value = None if learned is None or theirs is None else learned / theirs
            target, met = (
                (None, None)
                if limit is None
                else (
                    f"{'<' if limit == 1 else '<='} {limit:g}",
                    None if value is None else value < limit,
                )
            )
            entries.append(
                {
                    "measure": f"{what}: GraphRegNet over {other}",
                    "value": value,
                    "target": target,
                    "met": met,
                }
            )
    return [
        *entries,
        {"measure": "training time of this run, s", "value": seconds, "target": None, "met": None},
    ]


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", choices=("test", "dev"), default="test")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(arguments.output, ("seed", "arm"), arguments.resume)
    seeds = HELD_OUT if arguments.seeds == "test" else DEV
    if arguments.model is not None:
        model, seconds = load_network(arguments.model), None
    else:
        schedule = replace(SCHEDULE, epochs=8) if arguments.quick else SCHEDULE
        model, seconds = trained(
            TRAINING[:4] if arguments.quick else TRAINING,
            arguments.output,
            schedule,
            arguments.resume,
        )
    for seed in seeds[:2] if arguments.quick else seeds:
        for name, search in arms(model).items():
            if not table.has(seed=seed, arm=name):
                table.add(
                    {"seed": seed, "arm": name, **compared(trial(seed, arguments.output), search)}
                )
                print(
                    {key: value for key, value in table.rows[-1].items() if key != "keypoints"},
                    flush=True,
                )
    write_summary(arguments.output, claims(table, seconds))


if __name__ == "__main__":
    main()
