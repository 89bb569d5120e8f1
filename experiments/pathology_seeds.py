"""Brain phantoms with a lesion: which seeds are for tuning and which for testing, and what they
make.

    python -m experiments.pathology_seeds [--write]

Both brains of ``brain_oasis_pair``, the fixed one for even and the moving one for odd seeds, in
voxels of 2 mm. The 2-D kinds are made by the same generators in one axial slice of them, in pixels
of 1 mm: everything moves in the plane, so the truth is exact there; and both scans have one
contrast, without shading, for the squared differences of shooting know nothing else. Says whether
each pair is the one that was meant, and what makes it acceptable. ``pathology_fingerprints.json``
beside this file holds a few statistics of each, for a digest of every bit would change with the
rounding of another machine; ``--write`` writes it anew, for a generator that has changed on
purpose.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from torch import Tensor

from experiments.cases import Case
from inrreg.core.grid import Grid
from inrreg.core.image import LabelImage
from inrreg.evaluation import jacobian_determinant_of_field
from inrreg.io import read_image, read_labels
from inrreg.phantoms.brain import FLUID, GREY, WHITE, Brain
from inrreg.phantoms.ellipsoids import LARGEST_CM3, SMALLEST_CM3
from inrreg.phantoms.lesion_pairs import Healthy, Pathology
from inrreg.phantoms.pathology import PathologyPair, pathology_pair
from inrreg.phantoms.resection import Isointense, Resection
from inrreg.phantoms.scanner import Scanner
from inrreg.phantoms.tumour import Tumour

TEST: dict[str, tuple[int, ...]] = {
    "resection": tuple(range(3000, 3010)),
    "tumour": tuple(range(3100, 3110)),
    "healthy": tuple(range(3200, 3205)),
    "resection 2-D": tuple(range(3300, 3310)),
    "tumour 2-D": tuple(range(3400, 3410)),
}
DEVELOPMENT: dict[str, tuple[int, ...]] = {
    "resection": tuple(range(2000, 2004)),
    "tumour": tuple(range(2100, 2104)),
    "healthy": (2200, 2201),
    "resection 2-D": tuple(range(2300, 2304)),
    "tumour 2-D": tuple(range(2400, 2404)),
    "isointense": tuple(range(2500, 2504)),
}
"""Settings are chosen on ``DEVELOPMENT``; ``TEST`` only says what they reach."""
SLICES = ("resection 2-D", "tumour 2-D")
"""The kinds of one slice."""
LARGEST_RESIDUAL_MM = 0.5
"""Where a tumour has crushed the tissue beside it, a quarter of a voxel."""
FINGERPRINTS = Path(__file__).with_name("pathology_fingerprints.json")
TOLERANCE, A_FEW_VOXELS = 2e-3, 1e-4

_WHITE = (1, 5, 20, 24, 13, 17, 33, 10, 29)
_FLUID = (3, 4, 11, 12, 22, 23, 19, 35)
_HEMISPHERES = ((1, 2, 14, 15), (20, 21, 30, 31))
"""Numbers of the 35 structures: white matter and what looks like it, ventricles with their plexus;
white matter, cortex, hippocampus and amygdala, left and right. All others are grey.
"""
_SULCI_MM, _CISTERNS_MM = 4.0, 8.0


def _closed(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    """``mask`` with its holes, and with what lies between parts less than twice ``radius_mm``
    apart.
    """
    margin = int(np.ceil(radius_mm / spacing.min())) + 1
    padded = np.pad(mask, margin)
    grown = distance_transform_edt(~padded, sampling=spacing) <= radius_mm
    closed = binary_fill_holes(
        (distance_transform_edt(grown, sampling=spacing) > radius_mm) | padded
    )
    return closed[(slice(margin, -margin),) * 3]


@lru_cache(maxsize=2)
def oasis_brain(name: str) -> Brain:
    """The ``fixed`` or ``moving`` brain of the pair, with hemispheres that hold their sulci but
    neither ventricles nor deep grey matter.
    """
    folder = Case("brain_oasis_pair").folder
    image, labels = (
        read_image(folder / f"{name}.nii.gz"),
        read_labels(folder / f"{name}_labels.nii.gz"),
    )
    numbers, spacing = labels.data[0].numpy(), image.grid.spacing
    tissue = np.where(
        np.isin(numbers, _WHITE),
        WHITE,
        np.where((numbers == 0) | np.isin(numbers, _FLUID), FLUID, GREY),
    ) * _closed(numbers > 0, _CISTERNS_MM, spacing)
    resectable = np.zeros_like(numbers)
    for side, structures in enumerate(_HEMISPHERES, 1):
        inside = _closed(np.isin(numbers, structures), _SULCI_MM, spacing)
        resectable[inside & ((numbers == 0) | np.isin(numbers, structures))] = side
    return Brain(
        image,
        labels,
        LabelImage.from_array(tissue, image.grid, "tissue"),
        LabelImage.from_array(resectable, image.grid, "resectable"),
    )


@lru_cache(maxsize=2)
def oasis_slice(name: str) -> Brain:
    """The axial slice of ``oasis_brain`` that shows most of the ventricles."""
    brain = oasis_brain(name)
    vertical = int(np.abs(brain.image.grid.direction[2]).argmax())
    ventricles = (
        torch.isin(brain.labels.data[0], torch.tensor(_FLUID))
        .movedim(vertical, 0)
        .flatten(1)
        .sum(1)
    )
    return brain.section(vertical, int(ventricles.argmax()))


@dataclass(frozen=True)
class Kind:
    """What the pairs of a kind are made of: which brains, what happens in them, and how they are
    scanned.
    """

    brain: Callable[[str], Brain]
    pathology: Pathology
    spacing: float = 2.0
    scanner: Scanner = field(default_factory=Scanner)


_ONE_CONTRAST = Scanner(shading=0.0, gamma=0.0)
KINDS = {
    "resection": Kind(oasis_brain, Resection()),
    "tumour": Kind(oasis_brain, Tumour()),
    "healthy": Kind(oasis_brain, Healthy()),
    "isointense": Kind(oasis_brain, Resection(filling=Isointense())),
    "resection 2-D": Kind(oasis_slice, Resection(), 1.0, _ONE_CONTRAST),
    "tumour 2-D": Kind(oasis_slice, Tumour(), 1.0, _ONE_CONTRAST),
}


def phantom(kind: str, seed: int) -> PathologyPair:
    """The phantom of a seed."""
    made = KINDS[kind]
    return pathology_pair(
        made.brain(("fixed", "moving")[seed % 2]),
        made.pathology,
        seed,
        made.spacing,
        scanner=made.scanner,
    )


def fingerprint(pair: PathologyPair) -> list[float]:
    """Mean and spread of both images, the share of each that has no counterpart, and the mean
    motion, mm: what rounding does not change by a thousandth, and another seed does.
    """
    views = (pair.fixed, pair.moving)
    of_views = [
        statistic
        for view in views
        for statistic in (
            view.image.data.mean(),
            view.image.data.std(),
            view.absent.data.to(torch.float32).mean(),
        )
    ]
    return [
        float(statistic)
        for statistic in (*of_views, pair.truth.vectors.detach().norm(dim=-1).mean())
    ]


def as_meant(found: list[float], meant: list[float] | None) -> bool:
    """Whether a fingerprint is the one that was meant, to rounding."""
    return meant is not None and np.allclose(found, meant, rtol=TOLERANCE, atol=A_FEW_VOXELS)


def acceptance(pair: PathologyPair) -> dict[str, float]:
    """The lesion's volume, the least and largest det J outside it, how far it moves the tissue at
    its edge, the inverse's residual.
    """
    grid = pair.fixed.image.grid
    absent = pair.fixed.absent.data[0] > 0
    head = pair.fixed.mask.data[0] > 0
    det = jacobian_determinant_of_field(pair.truth.vectors.detach(), grid)[head & ~absent]
    motion = pair.truth.vectors.detach().norm(dim=-1)
    residual = pair.inverse_residual()
    return {
        "lesion_cm3": _ball_cm3(absent, grid),
        "moving_absent_cm3": _ball_cm3(pair.moving.absent.data > 0, pair.moving.image.grid),
        "oedema_cm3": _ball_cm3(pair.oedema.data > 0, grid),
        "det_min": float(det.min()),
        "det_max": float(det.max()),
        "motion_mm": float(motion[head & ~absent].mean()),
        "largest_motion_mm": float(motion[head].max()),
        "residual_mean_mm": float(residual.mean()),
        "residual_max_mm": float(residual.max()),
    }


def _ball_cm3(region: Tensor, grid: Grid) -> float:
    """Volume of ``region``, in 2-D that of the ball whose middle section has its area."""
    size = float(region.sum()) * float(np.prod(grid.spacing))
    return (size if grid.ndim == 3 else 4 / 3 * size**1.5 / np.pi**0.5) / 1000


def acceptable(kind: str, found: dict[str, float]) -> bool:
    """Whether the truth does not fold, its inverse undoes it, and the lesion has 1 to 40 cm3."""
    size = (
        found["lesion_cm3"] == 0
        if kind == "healthy"
        else SMALLEST_CM3 <= found["lesion_cm3"] <= LARGEST_CM3
    )
    return size and found["det_min"] > 0 and found["residual_max_mm"] < LARGEST_RESIDUAL_MM


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    meant: dict[str, list[float]] = (
        json.loads(FINGERPRINTS.read_text()) if FINGERPRINTS.exists() else {}
    )
    made: dict[str, list[float]] = {}
    for kind, seeds in [*DEVELOPMENT.items(), *TEST.items()]:
        for seed in seeds:
            pair = phantom(kind, seed)
            found, made[str(seed)] = acceptance(pair), fingerprint(pair)
            same = (
                "as meant"
                if as_meant(made[str(seed)], meant.get(str(seed)))
                else "OTHER THAN MEANT"
            )
            print(
                kind,
                seed,
                same,
                "accepted" if acceptable(kind, found) else "NOT ACCEPTED",
                {name: round(value, 3) for name, value in found.items()},
                flush=True,
            )
    if arguments.write:
        FINGERPRINTS.write_text(
            "{\n"
            + ",\n".join(
                f' "{seed}": {json.dumps([float(f"{value:.6g}") for value in values])}'
                for seed, values in made.items()
            )
            + "\n}\n"
        )


if __name__ == "__main__":
    main()
