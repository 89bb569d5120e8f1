"""The published facts about the DIR-Lab cases, and the names of their files.

References: Castillo et al., Phys. Med. Biol. 2009 and 2010 (4DCT), Phys. Med. Biol. 2013
    (COPDgene).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inrreg.core.grid import Grid


@dataclass(frozen=True)
class PublishedCase:
    """The published size, spacing and initial landmark error of one case.

    ``shape`` counts voxels, ``spacing`` is in mm. ``initial_mm`` maps the number of landmarks (the
    subset of 300, or all) to the mean distance of corresponding landmarks before registration.
    """

    cohort: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    initial_mm: Mapping[int, float]

    def grid(self) -> Grid:
        """The grid of the case: index axes to the left, back and feet, centred at the origin."""
        corner = (np.array(self.shape) - 1) / 2 * self.spacing
        return Grid.from_spacing(self.shape, self.spacing, corner, -np.eye(3))


def _table(
    cohort: str, prefix: str, rows: Sequence[tuple[int, int, float, float, int, float]]
) -> dict[str, PublishedCase]:
    """The cases of one cohort.

    A row holds the number of columns, the number of slices, the spacing in the plane (mm), the
    initial error of 300 landmarks (mm), the number of all landmarks and their initial error (mm).
    """
    return {
        f"{prefix}{number}": PublishedCase(
            cohort,
            (columns, columns, slices),
            (in_plane, in_plane, 2.5),
            {300: of_300, count: of_all},
        )
        for number, (columns, slices, in_plane, of_300, count, of_all) in enumerate(rows, start=1)
    }


# From the tables of the owners; the errors of 300 landmarks in COPDgene are those of Hansen &
# Heinrich, IEEE TMI 2021.
CASES: dict[str, PublishedCase] = _table(
    "4DCT",
    "case",
    [
        (256, 94, 0.97, 3.89, 1280, 4.01),
        (256, 112, 1.16, 4.34, 1487, 4.65),
        (256, 104, 1.15, 6.94, 1561, 6.73),
        (256, 99, 1.13, 9.83, 1166, 9.42),
        (256, 106, 1.10, 7.48, 1268, 7.10),
        (512, 128, 0.97, 10.89, 419, 11.10),
        (512, 136, 0.97, 11.03, 398, 11.59),
        (512, 128, 0.97, 14.99, 476, 15.16),
        (512, 128, 0.97, 7.92, 342, 7.82),
        (512, 120, 0.97, 7.30, 435, 7.63),
    ],
) | _table(
    "COPDgene",
    "copd",
    [
        (512, 121, 0.625, 26.33, 773, 25.90),
        (512, 102, 0.645, 21.79, 612, 21.77),
        (512, 126, 0.652, 12.64, 1172, 12.29),
        (512, 126, 0.590, 29.58, 786, 30.90),
        (512, 131, 0.647, 30.08, 1029, 30.90),
        (512, 119, 0.633, 28.46, 633, 28.32),
        (512, 112, 0.625, 21.60, 575, 21.66),
        (512, 115, 0.586, 26.46, 791, 25.57),
        (512, 116, 0.664, 14.86, 447, 14.84),
        (512, 135, 0.742, 21.81, 480, 22.48),
    ],
)


@dataclass(frozen=True)
class Naming:
    """File names of one breathing state, after the name of the case: patterns and examples."""

    state: str
    image: str
    image_example: str
    landmarks: str
    landmarks_example: str


# Case 1 has the suffix _s, cases 2 to 5 -ssm, the others none; landmarks are Case1_300_T00_xyz.txt
# up to case 5 and case6_dirLab300_T00_xyz.txt from case 6 on,
# in ExtremePhases or extremePhases, below CaseNPack or Case8Deploy: so files are found by their own
# name, in any case of letters, whatever folder they lie in.
NAMINGS = {
    "4DCT": (
        Naming(
            "inhale",
            r"_T00(_s|-ssm)?\.img",
            "_T00.img",
            r"_(dirLab)?\d+_T00_xyz\.txt",
            "_300_T00_xyz.txt",
        ),
        Naming(
            "exhale",
            r"_T50(_s|-ssm)?\.img",
            "_T50.img",
            r"_(dirLab)?\d+_T50_xyz\.txt",
            "_300_T50_xyz.txt",
        ),
    ),
    "COPDgene": (
        Naming(
            "inhale", r"_iBHCT\.img", "_iBHCT.img", r"_\d+_iBH_xyz_r\d+\.txt", "_300_iBH_xyz_r1.txt"
        ),
        Naming(
            "exhale", r"_eBHCT\.img", "_eBHCT.img", r"_\d+_eBH_xyz_r\d+\.txt", "_300_eBH_xyz_r1.txt"
        ),
    ),
}
