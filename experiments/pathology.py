"""Where part of the brain has no counterpart: does the map leave it out, is it found, and does the
rest stay as exact as if it were known?

    python -m experiments.pathology [--seeds test|dev] [--quick] [--resume] [--threads 2] [--kinds
    ...] -o DIR

Resections, tumours and healthy brains of ``pathology_seeds``, 2 mm, brain masks given, each from
the same affine start; then the two patients of ``brain_tumour_progression``, without a mask.
Arms: *learned* is the preset, *oracle* the same with the true masks, *plain* its registration with
no mask, *huber* that with a robust difference in place of the local correlation; the detectors look
at what *plain* finds there and back. Landmarks 3 to 10 mm from the lesion are its *rim*, those 20
mm away and more are *far*. Oedema, which has a counterpart but looks different, takes no part in
the scores of a mask. The same arms, and the shooting methods, then run on slices with a lesion, the
kinds ``resection 2-D`` and ``tumour 2-D`` (see ``pathology_2d``). ``learned, swapped`` has the
lesion in the moving image, for the first two seeds of a 3-D kind; ``--quick`` takes no others and
leaves that out. The pictures of the real cases are in ``report.html``.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor, nn

from experiments.cases import Case
from experiments.pathology_2d import SHOOTING, TOLD, in_slices
from experiments.pathology_seeds import DEVELOPMENT, KINDS, SLICES, TEST, phantom
from experiments.tables import Table, judged, study_parser, write_summary
from inrreg import register
from inrreg.app.register import run_stages
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.evaluation import image_agreement, jacobian_determinant
from inrreg.io import read_image, read_labels
from inrreg.metamorphosis import GivenMask, NonCorrespondence, align
from inrreg.metamorphosis.detectors import ForwardBackward, JacobianAnomaly, LiWyatt
from inrreg.objective.step import Step
from inrreg.ops.sampling import linear
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.phantoms import PathologyPair
from inrreg.presets import preset
from inrreg.report.change import change_map
from inrreg.report.page import Plate, write_report
from inrreg.stages.gradient_registration import Registration
from inrreg.transforms import Transform, identity
from inrreg.transforms.warp import warp

SEEDS = {"test": TEST, "dev": DEVELOPMENT}
PATHOLOGY = preset("pathology")
FIT = next(stage for stage in PATHOLOGY.stages if isinstance(stage, NonCorrespondence))
PATIENTS = ("brain_tumour_progression/patient01", "brain_tumour_progression/patient05")
DETECTORS = {
    "residual x flatness": LiWyatt(),
    "log Jacobian": JacobianAnomaly(),
    "forward-backward": ForwardBackward(),
}


@dataclass(frozen=True)
class Huber:
    """Weighted mean of the Huber loss of fixed - warped: a square up to ``threshold``, a line
    beyond.
    """

    threshold: float = 0.1
    weight: float = 30.0
    name: str = "huber"

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        loss = nn.functional.huber_loss(
            step.warped(), step.fixed(), reduction="none", delta=self.threshold
        )
        return (step.weight * loss).sum() / step.weight.sum().clamp(min=1e-6)


@dataclass(frozen=True)
class Still:
    """A stage that leaves the map as it is."""

    transform: Transform | None = None
    name: str = "still"

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        return StageResult(
            self.name,
            self.transform or initial or identity(pair.fixed.grid.ndim),
            Outcome.CONVERGED,
            0.0,
        )


def arms(ndim: int) -> dict[str, Any]:
    """The last stage of each arm, in ``ndim`` dimensions."""
    fit = FIT if ndim == 3 else in_slices(FIT)
    plain: Registration = fit.registration
    return {
        "identity": Still(identity(ndim)),
        "affine": Still(),
        "plain": plain,
        "huber": replace(plain, similarities=(Huber(),)),
        "oracle": replace(fit, mask=GivenMask(), survey=()),
        "learned": fit,
        **({} if ndim == 3 else SHOOTING),
    }


def prepared(seen: PathologyPair) -> ImagePair:
    """The pair as the stages see it."""
    return ImagePair(
        seen.fixed.image, seen.moving.image, seen.fixed.mask, seen.moving.mask
    ).prepared(PATHOLOGY.intensity)


def known(pair: ImagePair, seen: PathologyPair) -> ImagePair:
    """The pair with the true masks."""
    fixed, moving = (
        Image(view.absent.data.float(), view.absent.grid, "lesion")
        for view in (seen.fixed, seen.moving)
    )
    return replace(pair, fixed_lesion=fixed, moving_lesion=moving)


def landmarks(transform: Transform, seen: PathologyPair) -> dict[str, float]:
    """Mean error of the landmarks at the rim of the lesion and far from it, mm."""
    error = (
        (transform(seen.fixed.landmarks.coords) - seen.moving.landmarks.coords).norm(dim=1).detach()
    )
    rim = torch.tensor([label.startswith("near") for label in seen.fixed.landmarks.labels])
    return {
        name: float(error[which].mean())
        for name, which in (("rim_mm", rim), ("far_mm", ~rim))
        if which.any()
    }


def geometry(transform: Transform, seen: PathologyPair) -> dict[str, float]:
    """The Jacobian determinant in the brain outside the lesion."""
    outside = (seen.fixed.mask.data[0] > 0) & (seen.fixed.absent.data[0] == 0)
    det = jacobian_determinant(transform, seen.fixed.image.grid)[outside]
    return {"folded_voxels": int((det <= 0).sum()), "det_min": float(det.min())}


def mask_scores(
    mask: Tensor,
    truth: Bool[Tensor, "1 *shape"],
    brain: Bool[Tensor, "1 *shape"],
    left_out: Bool[Tensor, "1 *shape"],
) -> dict[str, float]:
    """Dice at 0.5, what is found outside the truth in percent of the brain, and how well the mask
    ranks; voxels left out do not count.
    """
    counted = brain & ~left_out
    found = (mask > 0.5) & counted
    scores = {"false_positive_percent": 100 * float((found & ~truth).sum()) / float(brain.sum())}
    if truth.any():
        scores["dice"] = (
            2 * float((found & truth).sum()) / float(found.sum() + (truth & counted).sum())
        )
        scores["auc"] = auc(mask[counted], truth[counted])
    return scores


def auc(score: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """The probability that a positive sample scores above a negative one, ties counted half."""
    ranks, n = torch.as_tensor(rankdata(score.numpy())), int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def changed(
    result: StageResult,
    truth: Bool[Tensor, "1 *shape"],
    brain: Bool[Tensor, "1 *shape"],
    oedema: Bool[Tensor, "1 *shape"],
) -> dict[str, float]:
    """Scores of the mask and the share of the squared change of appearance that lies outside the
    lesion.
    """
    if result.change is None:
        return {}
    left_out = oedema & ~truth
    squared = result.change.appearance_change.data.square()
    leak = (
        {"leak_percent": 100 * float(squared[~truth & ~left_out].sum() / squared[~left_out].sum())}
        if truth.any()
        else {}
    )
    return {**mask_scores(result.change.non_correspondence.data, truth, brain, left_out), **leak}


def truth_of(seen: PathologyPair) -> tuple[Tensor, Tensor, Tensor]:
    """Where the fixed image has no counterpart, where the brain is, where the oedema is (seen from
    here or carried over).
    """
    grid = seen.fixed.image.grid
    oedema = Image(seen.oedema.data.float(), seen.oedema.grid, "oedema")
    at_home = (
        oedema.data
        if oedema.grid.same_as(grid)
        else linear(oedema, grid.points() + seen.truth.displacement_on(grid).float(), outside=0.0)
    )
    return seen.fixed.absent.data > 0, seen.fixed.mask.data > 0, at_home > 0.5


def phantom_rows(kind: str, seed: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One row an arm and a detector."""
    seen = phantom(kind, seed)
    pair = prepared(seen)
    stages = arms(pair.fixed.grid.ndim)
    start = run_stages(PATHOLOGY.stages[:2], pair, None)[-1].transform
    for name in names:
        if name == "detectors":
            yield from detector_rows(kind, seed, seen, pair, start, stages["plain"])
            continue
        turned = name.endswith("swapped")
        view, given = (seen.swapped(), pair.swapped()) if turned else (seen, pair)
        started = time.perf_counter()
        result = stages[name.removesuffix(", swapped")].run(
            known(given, view) if name in ("oracle", *TOLD) else given,
            start.inverse() if turned else start,
        )
        seconds = time.perf_counter() - started
        yield {
            "kind": kind,
            "seed": seed,
            "arm": name,
            **landmarks(result.transform, view),
            **geometry(result.transform, view),
            **changed(result, *truth_of(view)),
            "seconds": seconds,
        }


def detector_rows(
    kind: str,
    seed: int,
    seen: PathologyPair,
    pair: ImagePair,
    start: Transform,
    plain: Registration,
) -> Iterator[dict[str, Any]]:
    """What the cheap detectors make of plain registration there and back."""
    there, back = (
        plain.run(pair, start).transform,
        plain.run(pair.swapped(), start.inverse()).transform,
    )
    view = align(pair, there, back, plain.scales[-1].spacing_mm)
    truth, brain, oedema = truth_of(seen)
    for name, detector in DETECTORS.items():
        started = time.perf_counter()
        mask = detector(view)
        on_fixed = linear(mask, seen.fixed.image.grid.points(), outside=0.0)
        yield {
            "kind": kind,
            "seed": seed,
            "arm": name,
            **mask_scores(on_fixed, truth, brain, oedema & ~truth),
            "seconds": time.perf_counter() - started,
        }


def patient_rows(
    name: str, threads: int, folder: Path
) -> Iterator[tuple[dict[str, Any], Plate | None]]:
    """A follow-up by the preset's stages without a mask, and by the preset; local correlation and
    ranking where there is a head, its lesions carried over by the first of them.
    """
    case = Case(name).folder
    fixed, moving = (read_image(case / f"{which}.nii.gz") for which in ("fixed", "moving"))
    head = fixed.data > 0.05 * fixed.data.flatten().kthvalue(int(0.995 * fixed.data.numel())).values
    plain = replace(PATHOLOGY, name="plain", stages=(*PATHOLOGY.stages[:2], FIT.registration))
    lesion: Tensor | None = None
    for arm, chosen in (("plain", plain), ("learned", PATHOLOGY)):
        result = register(
            case / "fixed.nii.gz", case / "moving.nii.gz", preset=chosen, threads=threads
        )
        if lesion is None:
            lesion = (read_labels(case / "fixed_lesion.nii.gz").data > 0) | (
                result.warp(read_labels(case / "moving_lesion.nii.gz")).data > 0
            )
        healthy = Image((head & ~lesion).float(), fixed.grid, "head outside the lesions")
        row = {
            "kind": "patient",
            "seed": name.rsplit("/", 1)[-1],
            "arm": arm,
            "lncc_outside": (
                image_agreement(fixed, warp(moving, result.transform, fixed.grid), healthy).lncc
            ),
        }
        plate = None
        if result.change is not None:
            row["auc"] = auc(result.change.non_correspondence.data[head], lesion[head])
            plate = Plate(
                name,
                change_map(fixed, result.change),
                "What was found to have no counterpart, and the change of intensity there.",
            )
        result.save(folder / name.replace("/", "_") / arm)
        yield (
            {
                **row,
                "folded_voxels": result.metrics.jacobian.n_folded,
                "seconds": result.metrics.time_s.total,
            },
            plate,
        )


def claims(table: Table) -> list[dict[str, Any]]:
    """The targets of the study, each with what was reached over the seeds that hold a lesion,
    unless it says otherwise.
    """

    def mean(column: str, arm: str, *kinds: str) -> float | None:
        values = [
            float(row[column])
            for row in table.rows
            if row["arm"] == arm
            and row["kind"] in (kinds or ("resection", "tumour"))
            and row.get(column)
        ]
        return sum(values) / len(values) if values else None

    def ratio(column: str, one: str, other: str, *kinds: str) -> float | None:
        a, b = mean(column, one, *kinds), mean(column, other, *kinds)
        return None if a is None or b is None else a / b

    def largest(column: str, *kinds: str) -> float | None:
        return max(
            (
                float(row[column])
                for row in table.rows
                if row["arm"] == "learned" and row["kind"] in kinds and row.get(column)
            ),
            default=None,
        )

    patients = {(row["seed"], row["arm"]): row for row in table.rows if row["kind"] == "patient"}
    losses = [
        float(patients[seed, "plain"]["lncc_outside"])
        - float(patients[seed, "learned"]["lncc_outside"])
        for seed, arm in patients
        if arm == "learned" and (seed, "plain") in patients
    ]
    return judged(
        [
            ("far landmarks, over oracle", ratio("far_mm", "learned", "oracle"), "<=", 1.05),
            ("rim landmarks, over oracle", ratio("rim_mm", "learned", "oracle"), "<=", 1.15),
            ("rim landmarks, over plain", ratio("rim_mm", "learned", "plain"), "<=", 0.75),
            ("Dice of the mask, mean", mean("dice", "learned"), ">=", 0.80),
            (
                "found in healthy pairs, % of the brain, worst",
                largest("false_positive_percent", "healthy"),
                "<=",
                1.0,
            ),
            (
                "change outside the lesion, % of its square, mean",
                mean("leak_percent", "learned"),
                "<=",
                5.0,
            ),
            (
                "folded voxels outside the lesion, most",
                largest("folded_voxels", "resection", "tumour", "healthy"),
                "<=",
                0.0,
            ),
            *[
                (
                    f"in slices: rim landmarks, over {arm}",
                    ratio("rim_mm", "learned", arm, *SLICES),
                    "<=",
                    1.0,
                )
                for arm in SHOOTING
            ],
            ("slowest run, s", largest("seconds", "resection", "tumour", "healthy"), "<=", 120.0),
            (
                "patients, least AUC",
                min(
                    (float(row["auc"]) for row in patients.values() if row.get("auc")), default=None
                ),
                ">=",
                0.70,
            ),
            (
                "patients, local correlation lost outside the lesions, most",
                max(losses, default=None),
                "<=",
                0.01,
            ),
        ]
    )


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--seeds", choices=sorted(SEEDS), default="test")
    parser.add_argument(
        "--kinds", nargs="+", choices=(*KINDS, "patient"), default=(*TEST, "patient")
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if without := [
        kind for kind in arguments.kinds if kind not in (*SEEDS[arguments.seeds], "patient")
    ]:
        parser.error(
            f"{', '.join(without)}: no {arguments.seeds} seeds; take --seeds"
            f" {' or '.join(other for other in SEEDS if other != arguments.seeds)}"
        )
    torch.set_num_threads(arguments.threads)
    table = Table(arguments.output, ("kind", "seed", "arm"), arguments.resume)
    for kind, seeds in SEEDS[arguments.seeds].items():
        for seed in seeds[: 2 if arguments.quick else None] if kind in arguments.kinds else ():
            everything = [
                *arms(2 if kind in SLICES else 3),
                "detectors",
                *(
                    ["learned, swapped"]
                    if seed in seeds[:2] and kind not in SLICES and not arguments.quick
                    else []
                ),
            ]
            missing = [
                name
                for name in everything
                if not table.has(
                    kind=kind, seed=seed, arm=list(DETECTORS)[-1] if name == "detectors" else name
                )
            ]
            for row in phantom_rows(kind, seed, missing) if missing else ():
                table.tell(row)
    plates = []
    for name in PATIENTS if "patient" in arguments.kinds else ():
        for row, plate in patient_rows(name, arguments.threads, arguments.output):
            if not table.has(kind="patient", seed=row["seed"], arm=row["arm"]):
                table.tell(row)
            plates += [] if plate is None else [plate]
    if plates:
        write_report(
            arguments.output / "report.html",
            title="What has no counterpart: two patients after surgery and at progression",
            figures=plates,
        )
    write_summary(arguments.output, claims(table))


if __name__ == "__main__":
    main()
