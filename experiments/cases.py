"""The real cases of the development set: tune on them, never call them a test."""

import os
from dataclasses import dataclass
from pathlib import Path

from inrreg.core.errors import InputError
from inrreg.core.image_pair import ImagePair
from inrreg.evaluation import (
    jacobian_determinant_of_field,
    jacobian_statistics,
    label_overlap,
    landmark_error,
)
from inrreg.io import read_image, read_labels, read_mask, read_point_pairs
from inrreg.transforms import Transform
from inrreg.transforms.warp import warp

LUNG = ("lung_ct_longitudinal",)
LIVER = tuple(
    f"liver_4dmri_breathing/{name}"
    for name in ("subject18_1_10", "subject18_3_10", "subject23_1_4", "subject23_5_4")
)
BRAIN = ("brain_oasis_pair",)


def saved_pair(folder: Path) -> ImagePair:
    """Images, and masks where there are any, of a folder with the names that ``save_pair``
    gives.
    """
    masks = [
        read_mask(path) if path.exists() else None
        for path in (folder / "fixed_mask.nii.gz", folder / "moving_mask.nii.gz")
    ]
    return ImagePair(
        read_image(folder / "fixed.nii.gz"), read_image(folder / "moving.nii.gz"), *masks
    )


@dataclass(frozen=True)
class Case:
    """One folder of the shared cases."""

    name: str

    @property
    def folder(self) -> Path:
        root = os.environ.get("INRREG_DATA")
        if root is None or not (Path(root) / self.name).is_dir():
            raise InputError(
                f"{self.name} is not at hand: set the environment variable INRREG_DATA to the"
                " folder that holds it"
            )
        return Path(root) / self.name

    def pair(self) -> ImagePair:
        """Images, and masks where the case has them."""
        return saved_pair(self.folder)

    def score(self, transform: Transform) -> dict[str, float]:
        """Landmark error by group, Dice, and the Jacobian of the dense field in the region that
        counts.
        """
        scores: dict[str, float] = {}
        if (self.folder / "landmarks.csv").exists():
            errors = landmark_error(transform, *read_point_pairs(self.folder / "landmarks.csv"))
            for name, error in errors.groups.items():
                entry = error.to_json()
                scores |= {
                    f"{name}_{key}": float(entry[key])
                    for key in ("mean_mm", "median_mm", "trimmed98_mm")
                }
        region = (
            read_mask(self.folder / "fixed_mask.nii.gz")
            if (self.folder / "fixed_mask.nii.gz").exists()
            else None
        )
        grid = read_image(self.folder / "fixed.nii.gz").grid
        if (self.folder / "fixed_labels.nii.gz").exists():
            fixed = read_labels(self.folder / "fixed_labels.nii.gz")
            scores["dice"] = label_overlap(
                fixed, warp(read_labels(self.folder / "moving_labels.nii.gz"), transform, grid)
            ).mean_dice
            region = fixed.mask()
        statistics = jacobian_statistics(
            jacobian_determinant_of_field(transform.displacement_on(grid), grid), region
        )
        return {**scores, "folded_percent": statistics.folded_percent, "det_min": statistics.min}
