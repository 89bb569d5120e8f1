"""Does an encoder, trained on phantoms without their truth, save iterations of a fit, and how near
is its prediction alone?

    python -m experiments.nephi [--quick] [--resume] [--seeds test|dev] [--model FILE] [--device
    cpu] -o DIR

Chests of 6 mm voxels breathe by 8 to 22 mm, each seed by another amount and unevenly. Encoder and
decoders are trained in DIR on seeds 600 to 631 (or taken from ``--model``), stopped by seeds 640 to
643, and judged on seeds 700 to 705, or on seeds 650 to 653, on which everything was tuned. Every
arm is fitted to the pair by the same registration, for 30, 60, 90, 105 and 150 iterations, at the
rate that served it best on the latter: the rate falls over each of these lengths, so that a short
fit is a whole one. ``usual`` begins with new weights; ``shared codes`` has the trained decoders
draw from the mean of the codes of the training pairs, so that the encoder is not asked. What tells
the arms apart is the loss of the registration on one fixed draw of sites a pair, the same for all.
``--quick`` trains on 8 pairs for a fifth of the epochs and judges on 2: it shows that the study
runs, in 5 minutes, and meets no target but that of the identity.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.tables import Table, judged, study_parser, write_summary
from inrreg.amortised import AmortisedNePhi, Training, cost, load_amortised, save_amortised, train
from inrreg.amortised.network import codes_only
from inrreg.core.grid import Cube
from inrreg.core.image import Points
from inrreg.core.image_pair import ImagePair
from inrreg.fields.nephi import Codes
from inrreg.objective.features import Window
from inrreg.objective.samplers import Patches, RandomPoints, WholeGrid
from inrreg.optimisation import Adam
from inrreg.optimisation.stopping import NeverStopping
from inrreg.optimisation.training_loop import Epoch
from inrreg.penalties import GradICON, InverseConsistency
from inrreg.phantoms import lung_pair
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import LinearModel, Neural, NeuralModel, Transform

TRAINING = range(600, 632)
STOPPING = range(640, 644)
HELD_OUT = range(700, 706)
DEV = range(650, 654)
SPACING_MM = 6.0
LENGTHS = (30, 60, 90, 105, 150)
REGISTRATION = Registration(
    NeuralModel("nephi", {"width": 64, "whole_codes": 16, "local_codes": 16, "frequencies": 32}),
    similarities=(LNCC(5 * SPACING_MM),),
    penalties=(InverseConsistency(0.003), GradICON(0.3)),
    optimiser=Adam(stopping=NeverStopping()),
    sampler=Patches(40, 5),
    penalty_sampler=RandomPoints(200),
    mask_margin_mm=6.0,
)
FIXED_SITES = replace(REGISTRATION, sampler=Patches(400, 5), penalty_sampler=RandomPoints(1000))
AFFINE = replace(
    REGISTRATION,
    transform=LinearModel("affine"),
    penalties=(),
    optimiser=Adam(0.5),
    scales=(Scale(12, 100), Scale(SPACING_MM, 100)),
    sampler=WholeGrid(),
)
SCHEDULE = Training(epochs=150, spacing_mm=SPACING_MM, patience=40)
RATES = {"usual": 5e-3, "shared codes": 1e-3, "encoder": 1e-3, "encoder, codes alone": 3e-2}
"""Of the first and the third the best of two or three tried on the tuning seeds; the other two are
as they were chosen for another similarity.
"""


@dataclass(frozen=True, eq=False)
class Trial:
    """A phantom, its intensities prepared, and landmarks in its lungs, mm."""

    pair: ImagePair
    landmarks: tuple[Points, Points]

    def error(self, transform: Transform | None) -> float:
        """Mean landmark error, mm; ``None`` is the identity."""
        fixed, moving = (points.coords for points in self.landmarks)
        with torch.no_grad():
            found = fixed if transform is None else transform(fixed.to(transform.device)).cpu()
        return float((found - moving).norm(dim=1).mean())


def trial(seed: int, folder: Path) -> Trial:
    """The phantom of ``seed``, made once and kept in ``folder``."""
    path = folder / "phantoms" / f"{seed}.pt"
    if path.exists():
        return Trial(**torch.load(path, weights_only=False))
    motion_mm = float(np.random.default_rng(seed).uniform(8, 22))
    phantom = lung_pair(
        shape=(48, 40, 48), spacing=SPACING_MM, motion_mm=motion_mm, seed=seed, uneven=0.3
    )
    inside = [
        i for i, label in enumerate(phantom.fixed_landmarks.labels) if label.startswith("lung")
    ]
    fixed, moving = (
        Points(points.coords[inside])
        for points in (phantom.fixed_landmarks, phantom.moving_landmarks)
    )
    made = Trial(
        ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask.mask()).prepared(
            Window(-1000, 200)
        ),
        (fixed, moving),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(vars(made), part)
    part.replace(path)
    return made


def trained(
    seeds: range, folder: Path, schedule: Training, resume: bool, device: str
) -> tuple[AmortisedNePhi, float]:
    """The network, trained in ``folder``, and the seconds that took in this run."""
    pairs, held_out = (
        [trial(seed, folder).pair for seed in each]
        for each in (seeds, STOPPING[: max(1, len(seeds) // 8)])
    )
    started = time.perf_counter()
    network = train(
        pairs,
        REGISTRATION,
        schedule,
        held_out=held_out,
        device=device,
        checkpoint=folder / "training.safetensors",
        resume=resume,
        progress=told,
    )
    notes = {
        "trained on": (
            "phantoms: inrreg.phantoms.lung_pair, 6 mm voxels, 8 to 22 mm, uneven 0.3, seeds"
            f" {seeds.start} to {seeds.stop - 1}; no image of a patient"
        ),
        "by": "python -m experiments.nephi",
        "schedule": str(schedule),
    }
    save_amortised(network, folder / "nephi.safetensors", notes)
    return network, time.perf_counter() - started


def told(epoch: Epoch) -> None:
    if epoch.number % 10 == 0:
        print(
            f"epoch {epoch.number} of {epoch.epochs}: loss {epoch.loss:.4f}, held out"
            f" {epoch.held_out:.4f}",
            flush=True,
        )


Arm = Callable[[ImagePair], Neural]


def arms(network: AmortisedNePhi, training: list[ImagePair]) -> dict[str, Arm]:
    """Where each way to fit a pair begins."""
    starts = [network.start(pair).network for pair in training]
    shared = Codes(
        *[
            torch.stack([getattr(start, name) for start in starts]).mean(0)
            for name in ("whole", "local")
        ]
    )

    def with_shared_codes(pair: ImagePair) -> Neural:
        start = network.start(pair)
        with torch.no_grad():
            start.network.whole.copy_(shared.whole)
            start.network.local.copy_(shared.local)
        return start

    return {
        "usual": (
            lambda pair: REGISTRATION.transform.build(
                pair.fixed.grid, torch.Generator().manual_seed(0)
            ).to(pair.fixed.device)
        ),
        "shared codes": with_shared_codes,
        "encoder": network.start,
        "encoder, codes alone": lambda pair: codes_only(network.start(pair)),
    }


def fitted(case: Trial, arm: Arm, rate: float, iterations: int, device: str) -> dict[str, Any]:
    """Errors, mm, and losses on the fixed sites before and after a fit."""
    pair = case.pair.to(device)
    transform, level = arm(pair), FIXED_SITES.level(pair, SPACING_MM)
    assert transform.cube == Cube.around(pair.fixed.grid)

    @torch.no_grad()
    def judged(transform: Transform) -> tuple[float, float]:
        return float(
            cost(FIXED_SITES, level, transform, None, torch.Generator().manual_seed(0))
        ), case.error(transform)

    before = judged(transform)
    result = (
        replace(REGISTRATION, transform=transform)
        .with_scales(Scale(SPACING_MM, iterations, learning_rate=rate))
        .run(pair)
    )
    after = judged(result.transform)
    return {
        "start_mm": before[1],
        "end_mm": after[1],
        "start_loss": before[0],
        "end_loss": after[0],
        "seconds": result.seconds,
    }


def iterations(table: Table, arm: str) -> list[int]:
    """The shortest fit of each pair that ends at the loss at which the longest one of the usual
    start ends, or lower; twice the longest where none does.
    """
    found = []
    for row in table.rows:
        if row["arm"] == "usual" and row["iterations"] == str(LENGTHS[-1]):
            ends = {
                n: table.mean("end_loss", seed=row["seed"], arm=arm, iterations=n) for n in LENGTHS
            }
            found.append(
                next(
                    (
                        n
                        for n, end in ends.items()
                        if end is not None and end <= float(row["end_loss"])
                    ),
                    2 * LENGTHS[-1],
                )
            )
    return found


def claims(table: Table, pairs: int, seconds: float | None) -> list[dict[str, Any]]:
    """The targets, each with what was reached."""
    counts = {arm: iterations(table, arm) for arm in RATES}
    means = {arm: sum(each) / len(each) if each else None for arm, each in counts.items()}
    usual, encoder = means["usual"], means["encoder"]
    saved = None if usual is None or encoder is None else 100 * (1 - encoder / usual)
    start = table.mean("start_mm", arm="encoder")
    identity = table.mean("end_mm", arm="identity")
    affine = table.mean("end_mm", arm="affine")
    entries = judged(
        [
            (
                (
                    "iterations saved by the encoder's start to the loss at which the usual start"
                    " ends, %"
                ),
                saved,
                ">=",
                30.0,
            ),
            (
                "error of the encoder's start over that of the identity",
                None if start is None or identity is None else start / identity,
                "<",
                1.0,
            ),
            (
                "error of the encoder's start over that of the affine fit",
                None if start is None or affine is None else start / affine,
                "<",
                1.0,
            ),
        ]
    )
    plain = [
        *(
            (f"iterations to the loss at which the usual start ends: {arm}", value)
            for arm, value in means.items()
        ),
        *(
            (
                f"pairs that never come there: {arm}",
                float(sum(count > LENGTHS[-1] for count in each)),
            )
            for arm, each in counts.items()
        ),
        *((f"error, mm: {arm}", table.mean("end_mm", arm=arm)) for arm in ("identity", "affine")),
        *((f"error before a fit, mm: {arm}", table.mean("start_mm", arm=arm)) for arm in RATES),
        *(
            (f"error after {n} iterations, mm: {arm}", table.mean("end_mm", arm=arm, iterations=n))
            for arm in RATES
            for n in LENGTHS
        ),
        *(
            (f"loss after {n} iterations: {arm}", table.mean("end_loss", arm=arm, iterations=n))
            for arm in RATES
            for n in LENGTHS
        ),
        ("pairs that it was trained on", float(pairs)),
        ("training time of this run, s", seconds),
    ]
    return [
        *entries,
        *(
            {"measure": measure, "value": value, "target": None, "met": None}
            for measure, value in plain
        ),
    ]


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", choices=("test", "dev"), default="test")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder, device = arguments.output, arguments.device
    table = Table(folder, ("seed", "arm", "iterations"), arguments.resume)
    seeds, training = (
        HELD_OUT if arguments.seeds == "test" else DEV,
        (TRAINING[:8] if arguments.quick else TRAINING),
    )
    if arguments.model is not None:
        network, seconds = load_amortised(arguments.model, device), None
    else:
        schedule = replace(SCHEDULE, epochs=SCHEDULE.epochs // 5) if arguments.quick else SCHEDULE
        network, seconds = trained(training, folder, schedule, arguments.resume, device)
    starts = arms(network, [trial(seed, folder).pair.to(device) for seed in training])
    for seed in seeds[:2] if arguments.quick else seeds:
        case = trial(seed, folder)
        for name, find in {
            "identity": lambda pair: None,
            "affine": lambda pair: AFFINE.run(pair).transform,
        }.items():
            if not table.has(seed=seed, arm=name):
                table.tell(
                    {
                        "seed": seed,
                        "arm": name,
                        "iterations": 0,
                        "end_mm": case.error(find(case.pair)),
                    }
                )
        for name, arm in starts.items():
            for n in LENGTHS:
                if not table.has(seed=seed, arm=name, iterations=n):
                    table.tell(
                        {
                            "seed": seed,
                            "arm": name,
                            "iterations": n,
                            **fitted(case, arm, RATES[name], n, device),
                        }
                    )
    write_summary(folder, claims(table, len(training), seconds))


if __name__ == "__main__":
    main()
