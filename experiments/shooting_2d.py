"""Shooting metamorphosis in 2-D beside Demeter 0.2.11, method by method, at the same budget.

    python -m experiments.shooting_2d [--quick] [--resume] [--demeter PYTHON] -o DIR

The pictures of ``metamorphosis_2d``: a C against its bent, cut form with a disc, and an atlas slice
against two slices with a tumour, at about 160 x 160 pixels of 1 mm. They are a development set.
``--demeter`` is the Python of an environment of its own with demeter-metamorphosis 0.2.11, the
appdirs that it forgets to ask for, and the torch version that runs here; without it only our rows
are made. Both run on one thread.

The budget is what Demeter takes in nine outer iterations of its L-BFGS (up to 20 inner ones each):
ours gets 80 iterations over three levels, and the table counts the evaluations of cost and gradient
of both. Its kernel, steps and weights are those of its own examples; ours has the same kernel, half
the steps in a scheme of second order, and a ``regularisation`` at which both deform about equally
strongly (Demeter blurs gradients, so equal numbers do not mean equal norms). Judged is the map
alone, by the same code: half the sum of squared differences between the fixed image and the moving
one resampled through the map, outside the lesion. ``--quick`` takes the C and one brain.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.cases import Case
from experiments.tables import Table, judged, study_parser, write_summary
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.evaluation import jacobian_determinant_of_field
from inrreg.metamorphosis import (
    Gaussian,
    Hamiltonian,
    MaskWeight,
    Metamorphosis,
    Resolution,
    lddmm,
    metamorphosis,
    weighted_metamorphosis,
)
from inrreg.ops.pyramid import pyramid_level
from inrreg.ops.sampling import linear
from inrreg.optimisation import LBFGS, NeverStopping, Optimiser, Outcome
from inrreg.optimisation.optimisers import Cost

SIGMA_MM, REGULARISATION = 6.0, 4e-4
LEVELS = (Resolution(4, 25), Resolution(2, 25), Resolution(1, 30))
DEMETER = {"sigma": SIGMA_MM, "cost": 1e-3, "steps": 10, "iterations": 9}
METHODS: dict[str, tuple[Callable[[Image], Hamiltonian], float]] = {
    "LDDMM": (lambda lesion: lddmm(Gaussian(SIGMA_MM)), 1.0),
    "masked LDDMM": (lambda lesion: lddmm(Gaussian(SIGMA_MM)), 1.0),
    "metamorphosis": (lambda lesion: metamorphosis(Gaussian(SIGMA_MM), 0.998), 0.99),
    "weighted": (
        lambda lesion: weighted_metamorphosis(Gaussian(SIGMA_MM), 0.99, MaskWeight(lesion)),
        0.0,
    ),
}
"""Each method in ours, and Demeter's rho for it; the two scale the price of intensity in different
ways.
"""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Two pictures in 0 ...

    1 and the lesion of the fixed one (1 = no counterpart), on one grid of pixels of 1 mm.
    """

    fixed: Image
    moving: Image
    lesion: Image

    def judged(self, u: Float[Tensor, "*shape d"]) -> dict[str, float]:
        """What the map x -> x + u(x) does by itself."""
        warped = linear(self.moving, self.fixed.grid.points() + u)
        squared = 0.5 * (warped - self.fixed.data).square()
        return {
            "outside": float((squared * (1 - self.lesion.data)).sum()),
            "inside": float((squared * self.lesion.data).sum()),
            "det_min": float(jacobian_determinant_of_field(u, self.fixed.grid).min()),
        }


def picture(folder: Path, name: str, size: int, pixel: float) -> Image:
    """The first ``size`` pixels each way of a grey picture, at ``pixel`` of them a pixel, which is
    then called 1 mm.
    """
    values = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / f"{name}.png")))[
            :size, :size, 0
        ].astype(np.float32)
        / 255
    )
    level = pyramid_level(
        Image.from_array(values, Grid.from_spacing(values.shape, 1.0), name), pixel
    )
    return Image(level.data, Grid.from_spacing(level.grid.shape, 1.0), name)


def brain(folder: Path, patient: str) -> Pictures:
    """An atlas slice to a patient's, whose tumour is given."""
    fixed, moving, tumour = (
        picture(folder, name, 240, 1.5)
        for name in (f"BraTS2021_{patient}_80_", "reg_test_sri24", f"BraTS2021_{patient}_seg")
    )
    return Pictures(fixed, moving, tumour.with_data((tumour.data > 0.5).float()))


def shapes(folder: Path) -> Pictures:
    """A bent C to a cut one with a disc: the picture of each shape alone tells where they are."""
    size, pixel = 706, 706 / 160
    fixed, moving = (
        picture(folder, name, size, pixel) for name in ("reg_test_m1c", "reg_test_m0t")
    )
    row, column = (
        size / n * axis
        for n, axis in zip(
            fixed.grid.shape,
            torch.meshgrid(*[torch.arange(n) for n in fixed.grid.shape], indexing="ij"),
            strict=True,
        )
    )
    disc = (row - 348).square() + (column - 567).square() < 62**2
    cut = ((row - 352).abs() < 52) & (column > 80) & (column < 250)
    return Pictures(fixed, moving, fixed.with_data((disc | cut).float()[None]))


CASES: dict[str, Callable[[Path], Pictures]] = {
    "C": shapes,
    "brain 00090": lambda folder: brain(folder, "00090"),
    "brain 00147": lambda folder: brain(folder, "00147"),
}


@dataclass
class Counted:
    """An optimiser, and how often it has asked for the cost and its gradient."""

    optimiser: Optimiser
    evaluations: int = 0

    def minimise(
        self,
        cost: Cost,
        parameters: Iterable[nn.Parameter],
        iterations: int,
        learning_rate: float | None = None,
        watch: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """See ``Optimiser``."""

        def counting() -> Tensor:
            self.evaluations += 1
            return cost()

        return self.optimiser.minimise(counting, parameters, iterations, learning_rate, watch)


def untouched(case: Pictures, method: str) -> dict[str, float]:
    """The row of the pair as it is."""
    return {
        **case.judged(torch.zeros(*case.fixed.grid.shape, 2)),
        "seconds": 0.0,
        "evaluations": 0.0,
    }


def ours(case: Pictures, method: str) -> dict[str, float]:
    """Our row of the table."""
    mask = case.lesion.with_data(1 - case.lesion.data) if method == "masked LDDMM" else None
    optimiser = Counted(LBFGS(stopping=NeverStopping()))
    fit = Metamorphosis(METHODS[method][0](case.lesion), REGULARISATION, 5, LEVELS, optimiser)
    started = time.perf_counter()
    result = fit.run(ImagePair(case.fixed, case.moving, mask))
    seconds = time.perf_counter() - started
    whole = (
        0.5 * (linear(result.images[-1], case.fixed.grid.points()) - case.fixed.data).square().sum()
    )
    return {
        "whole": float(whole),
        **case.judged(result.transform.displacement_on(case.fixed.grid)),
        "seconds": seconds,
        "evaluations": float(optimiser.evaluations),
    }


def demeter(case: Pictures, method: str, python: Path) -> dict[str, float]:
    """Demeter's row, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(
            given,
            fixed=case.fixed.numpy(),
            moving=case.moving.numpy(),
            lesion=case.lesion.numpy(),
            method=method,
            rho=METHODS[method][1],
            **DEMETER,
        )
        script = Path(__file__).with_name("demeter_baseline.py")
        done = subprocess.run(
            [python, script, given, found],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"Demeter failed on {method}:\n{done.stderr[-3000:]}")
        answer = dict(np.load(found))
    whole = 0.5 * np.square(answer["image"] - case.fixed.numpy()).sum()
    return {
        "whole": float(whole),
        **case.judged(torch.from_numpy(answer["displacement"])),
        "seconds": float(answer["seconds"]),
        "evaluations": float(answer["evaluations"]),
    }


def claims(table: Table) -> list[dict[str, Any]]:
    """Row by row against Demeter's of the same case and method."""
    entries: list[tuple[str, float | None, str, float]] = []
    for case in CASES:
        for method in METHODS:
            mine, theirs = (
                {
                    name: table.mean(name, case=case, method=method, tool=tool)
                    for name in ("outside", "det_min", "seconds")
                }
                for tool in ("ours", "demeter")
            )
            if mine["outside"] is None:
                continue
            entries.append((f"{case}, {method}: minimum Jacobian", mine["det_min"], ">", 0.0))
            for name, measure, target in (
                ("outside", "map-only half SSD outside over Demeter's", 1.0),
                ("seconds", "time over Demeter's", 0.5),
            ):
                over = (
                    None
                    if mine[name] is None or theirs[name] is None
                    else mine[name] / theirs[name]
                )
                entries.append((f"{case}, {method}: {measure}", over, "<=", target))
    return judged(entries)


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--demeter", type=Path, help="the Python of Demeter's environment")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Case("metamorphosis_2d").folder
    table = Table(arguments.output, ("case", "method", "tool"), arguments.resume)
    tools = {"ours": ours} | (
        {"demeter": partial(demeter, python=arguments.demeter)} if arguments.demeter else {}
    )
    if not arguments.demeter:
        print(
            "no Demeter to compare with: give the Python of its environment by --demeter; its rows"
            " are left out"
        )
    for name, made in list(CASES.items())[: 2 if arguments.quick else None]:
        case = made(folder)
        for method, tool, measure in [
            ("identity", "none", untouched),
            *[(method, tool, run) for method in METHODS for tool, run in tools.items()],
        ]:
            if not table.has(case=name, method=method, tool=tool):
                row = {"case": name, "method": method, "tool": tool, **measure(case, method)}
                table.tell(row)
    write_summary(arguments.output, claims(table))


if __name__ == "__main__":
    main()
