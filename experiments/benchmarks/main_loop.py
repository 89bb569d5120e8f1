"""Where the time of a step of the continuous stage goes, and how far it is from what this CPU can
do.

    python -m experiments.benchmarks.main_loop [--threads 1] [--repeats 9] [--shape 112 96 112] -o
    DIR

The continuous stage of the preset ``lung`` on a generated chest, from a random smooth deformation
behind an affine start. At each of its scales every part of a step is timed alone, with its
derivative: the spline *rendered* on the voxels, the moving image *warped* (with the weight of what
leaves it), local *correlation*, *penalties* on their lattice, *optimiser*; and the whole *step*.
Medians of repeats in turn.

Beside each time stands a *roofline*: the least bytes (each array that a part must read or write,
once) and the arithmetic (a cubic spline by its four taps an axis, windows by the additions of
powers of two), and the time they would take at the speed of the memory (a copy of arrays larger
than the cache) and of the arithmetic unit (a product of two matrices), whichever is longer.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from experiments.tables import Table, write_summary
from inrreg.core.grid import Grid
from inrreg.core.image_pair import ImagePair
from inrreg.core.threads import kernel_threads, limit_threads, prefer_kernels
from inrreg.objective.step import Samples, Step
from inrreg.optimisation.moments import AdamState
from inrreg.phantoms import lung_pair
from inrreg.presets import preset
from inrreg.stages.both_directions import BothDirections
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import Affine, BSpline

COPIED, MATRIX = 1 << 26, 1024
"""Numbers in the array that is copied, rows of the matrices that are multiplied."""

Work = Callable[[], object]


@dataclass(frozen=True)
class Part:
    """What is timed, the least bytes it moves and the operations it needs."""

    work: Work
    bytes: float
    flops: float


class Laboratory:
    """One scale of the stage, held still: everything a part needs, made once."""

    def __init__(self, stage: Registration, scale: Scale, pair: ImagePair) -> None:
        self.stage, level = stage, stage.level(pair, scale.spacing_mm)
        self.images = Samples(level, stage.sampler.draw(level.fixed_mask, torch.Generator()))
        self.geometry = Samples(
            level, stage.penalty_sampler.draw(level.fixed_mask, torch.Generator())
        )
        self.spline = BSpline.over(pair.fixed.grid, scale.control_spacing_mm or 8.0)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.spline.coefficients.copy_(
                torch.randn(self.spline.coefficients.shape, generator=generator)
            )
        center = torch.tensor(pair.fixed.grid.center)
        self.start = Affine.from_matrix(
            torch.eye(3) + 0.02 * torch.randn(3, 3, generator=generator),
            torch.tensor([1.0, -2.0, 3.0]),
            center,
        ).requires_grad_(False)
        self.adam = AdamState([self.spline.coefficients], (0.9, 0.99))

    def step(
        self, samples: Samples, displacement: Tensor | None = None, warped: Tensor | None = None
    ) -> Step:
        """A step that has got so far."""
        step = Step(samples, self.spline, self.start)
        if displacement is not None:
            step.__dict__["displacement"] = displacement
        if warped is not None:
            step._warped[self.stage.similarities[0].feature] = warped  # type: ignore[attr-defined]
        return step

    def parts(self) -> dict[str, Part]:
        """Each part from what the one before it hands over."""
        stage, grid = self.stage, cast(Grid, self.images.sites.grid)
        n = grid.n_voxels
        knots = self.spline.coefficients.numel()
        moving = self.images.level.moving.grid.n_voxels
        with torch.no_grad():
            u = self.step(self.images).displacement
            warped = self.step(self.images, u).warped()
        some_u, some_value = torch.rand_like(u), torch.rand_like(warped)

        def warp() -> Tensor:
            step = self.step(self.images, u.detach().requires_grad_())
            return torch.autograd.grad(step.warped(), step.displacement, some_value)[0] + float(
                step.weight[0, 0, 0, 0, 0]
            )

        def correlate() -> Tensor:
            value = warped.detach().requires_grad_()
            return torch.autograd.grad(
                stage.similarities[0](self.step(self.images, u, value)), value
            )[0]

        def whole() -> None:
            step, shape = self.step(self.images), self.step(self.geometry)
            self.spline.coefficients.grad = None
            torch.stack(
                [term.weight * term(step) for term in stage.similarities]
                + [term.weight * term(shape) for term in stage.penalties]
            ).sum().backward()
            self.adam.step(1e-6)

        def penalise() -> tuple[Tensor, ...]:
            step = self.step(self.geometry)
            return torch.autograd.grad(
                torch.stack([term(step) for term in stage.penalties]).sum(),
                [self.spline.coefficients],
            )

        def optimise() -> None:
            self.spline.coefficients.grad = torch.zeros_like(self.spline.coefficients)
            self.adam.step(1e-6)

        p = prod(self.geometry.sites.lattice)
        radii = stage.similarities[0].radii(self.images.sites.spacing, self.images.sites.lattice)  # type: ignore[attr-defined]
        additions = sum(bin(2 * r + 1).count("1") + (2 * r + 1).bit_length() - 2 for r in radii)
        parts = {
            "render": Part(
                lambda: torch.autograd.grad(
                    self.step(self.images).displacement, self.spline.coefficients, some_u
                ),
                4 * (2 * knots + 6 * n),
                2 * 8 * 3 * n * 1.5,
            ),
            "warp": Part(
                warp, 4 * (3 * n + moving + 4 * n + n + 3 * n + 3 * n), n * (18 + 15 + 40 + 15 + 3)
            ),
            "correlation": Part(correlate, 4 * n * (3 + 3 + 1), n * (6 * additions + 30)),
            "penalties": Part(
                penalise, 4 * (2 * knots + 2 * 9 * p), 2 * p * (9 * 8 * 1.5 + 9 * 9 + 20)
            ),
            "optimiser": Part(optimise, 4 * 7 * knots, 15 * knots),
        }
        total = Part(
            whole,
            sum(part.bytes for part in parts.values()),
            sum(part.flops for part in parts.values()),
        )
        return {**parts, "step": total}


def seconds(works: Mapping[str, Work], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turn; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            taken[name].append(time.perf_counter() - started)
    return {name: median(times[1:]) for name, times in taken.items()}


def machine(repeats: int) -> tuple[float, float]:
    """Bytes a second to and from the memory, and floating-point operations a second."""
    source = torch.rand(COPIED)
    target = torch.empty(COPIED)
    matrix = torch.rand(MATRIX, MATRIX)
    taken = seconds(
        {"copy": lambda: target.copy_(source), "product": lambda: matrix @ matrix}, repeats
    )
    return 8 * COPIED / taken["copy"], 2 * MATRIX**3 / taken["product"]


@prefer_kernels()
def study(
    table: Table, shape: tuple[int, int, int], repeats: int, bandwidth: float, rate: float
) -> list[dict[str, Any]]:
    """Fill ``table`` with a row a part, and give the entries of the summary; threads are shared out
    as in a run.
    """
    chosen = preset("lung")
    entries = list[dict[str, Any]]()
    threads = kernel_threads()
    stage = cast(BothDirections, chosen.stages[-1]).stage.stage
    phantom = lung_pair(shape, 2.0)
    pair = ImagePair(
        phantom.fixed, phantom.moving, phantom.fixed_mask, phantom.moving_mask
    ).prepared(chosen.intensity)
    for scale in stage.scales:
        laboratory = Laboratory(stage, scale, pair)
        parts = laboratory.parts()
        taken = seconds({name: part.work for name, part in parts.items()}, repeats)
        for name, part in parts.items():
            least = max(part.bytes / bandwidth, part.flops / rate)
            row = {
                "scale_mm": scale.spacing_mm,
                "part": name,
                "voxels": prod(laboratory.images.sites.lattice),
                "threads": threads,
            }
            row |= {
                "ms": 1e3 * taken[name],
                "mbytes": part.bytes / 1e6,
                "mflops": part.flops / 1e6,
                "roofline_ms": 1e3 * least,
                "times_roofline": taken[name] / least,
            }
            table.add(row)
            print(
                "".join(
                    f"{value:>14.4g}" if isinstance(value, float) else f"{value:>14}"
                    for value in row.values()
                ),
                flush=True,
            )
            entries.append(
                {
                    "measure": f"{name}, {scale.spacing_mm:g} mm",
                    "value": 1e3 * taken[name],
                    "unit": "ms",
                    "target": None,
                    "met": None,
                }
            )
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        default=(150, 120, 150),
        help="voxels of 2 mm of the generated chest",
    )
    arguments = parser.parse_args()
    with limit_threads(arguments.threads):
        bandwidth, rate = machine(arguments.repeats)
        print(
            f"memory {bandwidth / 1e9:.1f} GB/s, arithmetic {rate / 1e9:.0f} GFLOP/s,"
            f" {arguments.threads} thread(s)"
        )
        table = Table(arguments.output, ("scale_mm", "part"), resume=False)
        write_summary(
            arguments.output, study(table, arguments.shape, arguments.repeats, bandwidth, rate)
        )


if __name__ == "__main__":
    main()
