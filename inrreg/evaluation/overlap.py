"""Overlap of label images (Dice, Ecology 1945)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inrreg.core.errors import InputError
from inrreg.core.image import LabelImage
from inrreg.evaluation.region import require_grid


@dataclass(frozen=True)
class Overlap:
    """Dice coefficient, 0 ... 1, of each label above 0 of the fixed image."""

    dice: dict[int, float]

    @property
    def mean_dice(self) -> float:
        """The mean over labels, each label counting the same."""
        return float(np.mean(list(self.dice.values())))

    def to_json(self) -> dict[str, int | float]:
        """``n_labels``, ``mean_dice`` and one ``label_<value>_dice`` a label; no units."""
        return {
            "n_labels": len(self.dice),
            "mean_dice": self.mean_dice,
            **{f"label_{label}_dice": value for label, value in self.dice.items()},
        }


def label_overlap(fixed: LabelImage, warped: LabelImage) -> Overlap:
    """Dice 2 |A n B| / (|A| + |B|) of every label of ``fixed`` and the same label of ``warped``.

    It is 0 where ``warped`` does not have the label.

    Raises:
        FrameError: the images lie on different grids.
        InputError: ``fixed`` has no label.
    """
    require_grid(fixed.grid, fixed, warped)
    f, w = fixed.numpy(), warped.numpy()
    in_fixed = _voxels(f)
    in_warped = _voxels(w)
    in_both = _voxels(f[f == w])
    if not in_fixed:
        raise InputError(
            f"{fixed.name} holds no label above 0; check that it is the label image of the fixed"
            " side"
        )
    return Overlap(
        {
            label: 2 * in_both.get(label, 0) / (count + in_warped.get(label, 0))
            for label, count in in_fixed.items()
        }
    )


def _voxels(values: NDArray[np.int32]) -> dict[int, int]:
    """How many voxels each label above 0 has."""
    labels, counts = np.unique(values[values > 0], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))
