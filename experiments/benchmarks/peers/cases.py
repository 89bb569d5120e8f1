"""The cases all tools are run on: the shared ones (a development set), and generated lungs of test
seeds.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.cases import BRAIN, LIVER, LUNG, Case
from experiments.lung_phantoms import SEEDS, phantom
from inrreg.core.errors import InputError
from inrreg.io import read_mask

PHANTOMS = tuple(f"lung_phantom/{seed}" for seed in SEEDS["test"][:2])
GROUPS = {"lung": LUNG, "liver": LIVER, "brain": BRAIN, "phantoms": PHANTOMS}
ISOTROPIC_MM = {"lung": 1.5, "liver": 1.75, "brain": 1.0}
"""Spacing for the tools that want equal ones."""


@dataclass(frozen=True)
class Generated(Case):
    """A phantom, made in ``root`` when it is first asked for."""

    root: Path

    @property
    def folder(self) -> Path:
        return phantom(int(Path(self.name).name), self.root)


@dataclass(frozen=True)
class Benchmark:
    """A case and what its anatomy asks of a tool; ``measures`` are the errors that count, less is
    better, the first before all.
    """

    case: Case
    anatomy: str
    measures: tuple[str, ...]

    @property
    def aligned(self) -> bool:
        """Whether the pair lies affinely aligned already."""
        return self.anatomy == "brain"

    def files(self) -> dict[str, Path]:
        """Images, and masks where there are any."""
        names = ("fixed", "moving", "fixed_mask", "moving_mask")
        return {
            name: path
            for name in names
            if (path := self.case.folder.absolute() / f"{name}.nii.gz").exists()
        }

    def start_mm(self) -> tuple[float, float, float]:
        """The translation between the centroids of both masks, LPS mm; none without masks."""
        files = self.files()
        if "fixed_mask" not in files:
            return (0.0, 0.0, 0.0)
        fixed, moving = (_centroid(files[f"{which}_mask"]) for which in ("fixed", "moving"))
        x, y, z = moving - fixed
        return (-float(x), -float(y), float(z))


def _centroid(path: Path) -> np.ndarray:
    """World RAS mm."""
    mask = read_mask(path)
    return mask.grid.to_world((mask.data[0] > 0.5).nonzero().double().mean(0)).numpy()


def chosen(names: list[str], root: Path) -> list[Benchmark]:
    """The cases of these names, or of the groups ``lung``, ``liver``, ``brain`` and ``phantoms``;
    phantoms are made in ``root``.

    Raises:
        InputError: a name that is none.
    """
    known = [name for group in GROUPS.values() for name in group]
    found = [case for name in names for case in GROUPS.get(name, (name,))]
    if unknown := [name for name in found if name not in known]:
        raise InputError(
            f"no case is called {unknown[0]!r}; choose of {', '.join([*GROUPS, *known])}"
        )
    return [_benchmark(name, root) for name in dict.fromkeys(found)]


def _benchmark(name: str, root: Path) -> Benchmark:
    if name in PHANTOMS:
        return Benchmark(Generated(name, root), "lung", ("lung_mean_mm", "lung_median_mm"))
    if name in LUNG:
        return Benchmark(Case(name), "lung", ("L_trimmed98_mm", "L_mean_mm", "L_median_mm"))
    return (
        Benchmark(Case(name), "liver", ("liver_mean_mm", "outside_mean_mm"))
        if name in LIVER
        else Benchmark(Case(name), "brain", ("missing_dice",))
    )
