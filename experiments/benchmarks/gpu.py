"""What one GPU gives: seconds of both stages of the preset lung, memory and time of a step against
image size, and what TF32 and half precision cost in mm.

    python -m experiments.benchmarks.gpu [--device cuda] [--quick] [--resume] -o DIR

The targets are for a card of the class of an H100; nothing is held against them on another device
or with ``--quick``, which takes small images, so that a CPU can show that the study runs. A row is
known by its measure, arm, image size and device:

- *stage*: a stage of the preset on 192 x 192 x 208 voxels of a generated chest, from where the
  stages before it end. Median of repeats behind one that warms up, the device waited for.
- *memory*: the most that is held, and the median of some steps, of a registration at full
  resolution by local correlation alone on cubes of 1.5 mm voxels. Ours is a free-form deformation,
  or a SIREN rendered on a lattice; beside it stands a vector at every voxel. A series ends where
  memory does, and its last row says so. On a CPU it is the most that the process has held so far:
  rows there come in order of size and hide each other.
- *precision*: a stage run in TF32, or under autocast, against the same in single precision (where
  torch's default of TF32 for convolutions is off too): how far its map lies from the other in the
  mask, and, as ``rendered_max_mm``, how far the map found in single precision lies from itself
  where only its evaluation is run so. A fit enlarges rounding by itself; *start off by a millionth*
  says how much.
"""

import copy
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.cases import saved_pair
from experiments.tables import Claim, Table, judged, study_parser, write_summary
from inrreg.app.metrics import key, peak_memory_mb
from inrreg.app.register import run_stages
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.evaluation import landmark_error
from inrreg.io import read_point_pairs
from inrreg.optimisation import Adam, NeverStopping
from inrreg.optimisation.stage_result import StageResult
from inrreg.phantoms import lung_pair, save_pair
from inrreg.presets import preset
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.protocol import Stage
from inrreg.transforms import BSpline, DenseDisplacement, NeuralModel, Transform
from inrreg.transforms.bspline import render

VOXEL_MM, TEXTURE_MM, SHIFT_MM = 1.5, 6.0, (2.0, -1.0, 1.5)
"""Of the cubes: their voxels, the length over which their texture changes, and how far the moving
one is shifted.
"""
HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}
SAME, TF32 = "start off by a millionth", "TF32"
DONE, OUT = "done", "out of memory"
LIMITS_S = {"graph": 2.0, "continuous": 5.0}
LIMIT_MM = 0.01


@dataclass(frozen=True)
class Plan:
    """The chest of the stages: ``shape`` voxels of ``spacing_mm`` that breathe by ``motion_mm``;
    the ``edges`` of the cubes in voxels; ``repeats`` of what is timed.
    """

    shape: tuple[int, int, int]
    spacing_mm: float
    motion_mm: float
    edges: tuple[int, ...]
    repeats: int


FULL = Plan((192, 192, 208), 1.75, 28.0, (128, 192, 256, 384, 512), 3)
QUICK = Plan((40, 40, 44), 3.0, 7.0, (24, 32, 40), 1)


class VoxelField(DenseDisplacement):
    """A vector at every voxel, which on its own grid is read, not interpolated: the least that any
    dense method pays for its field.
    """

    def displacement_on(self, grid: Grid) -> Float[Tensor, "*shape d"]:
        return self.vectors if grid.same_as(self.grid) else super().displacement_on(grid)


FIELDS: dict[str, Callable[[Grid], Transform]] = {
    "free-form, 6 mm": lambda grid: BSpline.over(grid, 6.0),
    "SIREN rendered, 12 mm": (
        lambda grid: NeuralModel("siren", {"width": 128, "depth": 3}, lattice_mm=12.0).build(
            grid, torch.Generator().manual_seed(0)
        )
    ),
    "dense field": lambda grid: VoxelField(torch.zeros(*grid.shape, grid.ndim), grid),
}


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: CUDA, where torch finds none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda was asked for, but torch finds no CUDA device here; run it where there"
            " is one, or take --device cpu --quick to see that it runs"
        )
    return torch.device(name)


def named(device: torch.device) -> str:
    """What the table calls a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def waited(device: torch.device) -> float:
    """The time, s, once all work handed to the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Products and convolutions in ``TF32``, or autocast to one of ``HALF``, or else all in single
    precision; everything as before behind the block.
    """
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision == TF32
    try:
        with torch.autocast(device.type, HALF.get(precision), enabled=precision in HALF):
            yield
    finally:
        for backend, was in zip(backends, before, strict=True):
            backend.allow_tf32 = was


class Chest:
    """The chest on its device, and where each stage of the preset starts, made when first asked
    for.
    """

    def __init__(self, folder: Path, plan: Plan, device: torch.device) -> None:
        self.folder, self.plan, self.device, self.preset = folder, plan, device, preset("lung")
        self.stages: dict[str, Stage] = {stage.name: stage for stage in self.preset.stages[-2:]}
        self._single: dict[str, StageResult] = {}

    @cached_property
    def saved(self) -> Path:
        """The pair on disk, made unless it is there."""
        target = self.folder / "pairs" / by(self.plan.shape)
        if not (target / "landmarks.csv").exists():
            save_pair(
                lung_pair(
                    self.plan.shape, self.plan.spacing_mm, self.plan.motion_mm, seed=0, uneven=0.5
                ),
                target,
            )
        return target

    @cached_property
    def pair(self) -> ImagePair:
        return saved_pair(self.saved).prepared(self.preset.intensity).to(self.device)

    @cached_property
    def starts(self) -> dict[str, Transform]:
        """What each stage starts from, in single precision."""
        with computing_in("float32", self.device):
            first = run_stages(self.preset.stages[:-2], self.pair, None)[-1].transform
        return {"graph": first, "continuous": self.single("graph", first).transform}

    def single(self, name: str, start: Transform) -> StageResult:
        """A stage in single precision, run once."""
        if name not in self._single:
            with computing_in("float32", self.device):
                self._single[name] = self.stages[name].run(self.pair, start)
        return self._single[name]

    def errors(self, transform: Transform) -> dict[str, float]:
        """Mean error on the landmarks in the lungs before and after, mm."""
        error = (
            landmark_error(transform, *read_point_pairs(self.saved / "landmarks.csv"))
            .groups["lung"]
            .to_json()
        )
        return {"initial_mm": error["initial_mean_mm"], "error_mm": error["mean_mm"]}

    def timed(self, name: str) -> dict[str, Any]:
        """Median seconds of a stage with torch's own settings, behind a run that warms up."""
        start, taken = self.starts[name], []
        for _ in range(self.plan.repeats + 1):
            began = waited(self.device)
            result = self.stages[name].run(self.pair, start)
            taken.append(waited(self.device) - began)
        return {
            "outcome": DONE,
            "seconds": median(taken[1:]),
            "slowest_s": max(taken[1:]),
            **self.errors(result.transform),
        }

    def compared(self, name: str, precision: str) -> dict[str, Any]:
        """How far the map of a stage in ``precision`` lies from that in single precision inside the
        fixed mask, mm.
        """
        if precision == TF32 and self.device.type == "cpu":
            return {"outcome": "not applicable on a CPU"}
        start, grid = self.starts[name], self.pair.fixed.grid
        single, inside = self.single(name, start).transform, self.pair.fixed_mask.data[0] > 0.5
        meant = single.displacement_on(grid)[inside]

        def off(transform: Transform) -> Float[Tensor, " n"]:
            return (transform.displacement_on(grid).float()[inside] - meant).norm(dim=1)

        with computing_in(precision, self.device):
            began = waited(self.device)
            result = self.stages[name].run(self.pair, nudged(start) if precision == SAME else start)
            seconds = waited(self.device) - began
        with computing_in(precision, self.device):
            evaluated = off(single)
        found = off(result.transform).sort().values
        # quantile() takes no more than 16 million numbers
        percent99 = found[int(0.99 * (len(found) - 1))]
        distances = {
            "mean_mm": float(found.mean()),
            "percent99_mm": float(percent99),
            "max_mm": float(found[-1]),
            "rendered_max_mm": float(evaluated.max()),
        }
        return {
            "outcome": key(result.outcome),
            "seconds": seconds,
            **self.errors(result.transform),
            **distances,
        }


def nudged(transform: Transform) -> Transform:
    """A copy whose parameters are off by a millionth of themselves."""
    moved = copy.deepcopy(transform)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + 1e-6)
    return moved


def tried(precision: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` says; where half precision is no way to run it, what torch says of that."""
    try:
        return work()
    except RuntimeError as error:
        # torch has no class of its own for operands of two types, or for what a type lacks
        if precision not in HALF or isinstance(error, torch.OutOfMemoryError):
            raise
        return {"outcome": f"fails: {str(error).splitlines()[0]}"}


def cubes(edge: int, device: torch.device) -> ImagePair:
    """A random texture on ``edge`` cubed voxels, and the same shifted."""
    grid = Grid.from_spacing((edge,) * 3, VOXEL_MM)
    lattice = grid.covering(TEXTURE_MM, margin=1)
    coefficients = torch.randn(1, *lattice.shape, generator=torch.Generator().manual_seed(0)).to(
        device
    )
    fixed, moving = (
        render(coefficients, lattice, seen).movedim(-1, 0)
        for seen in (grid, Grid.from_spacing(grid.shape, VOXEL_MM, SHIFT_MM))
    )
    return ImagePair(Image(fixed, grid, "fixed"), Image(moving, grid, "moving"))


def stepped(
    field: Callable[[Grid], Transform], edge: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Peak memory, and the median time of a step behind two that warm up, of a registration at full
    resolution.
    """
    free()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    pair, times = cubes(edge, device), list[float]()
    stage = Registration(
        field(pair.fixed.grid),
        (LNCC(9.0),),
        optimiser=Adam(1e-3, stopping=NeverStopping()),
        scales=(Scale(VOXEL_MM, 3 + repeats),),
    )
    stage.run(pair, progress=lambda record: times.append(waited(device)))
    taken = [after - before for before, after in pairwise(times[1:])]
    memory = peak_memory_mb(device)
    return {
        "outcome": DONE,
        "step_ms": 1e3 * median(taken),
        "peak_mb": memory["device" if device.type == "cuda" else "process"],
    }


def affordable(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` says, or that memory ran out; what it held is given back."""
    try:
        return work()
    except (MemoryError, torch.OutOfMemoryError):
        pass  # the error holds what was being computed until it is out of sight
    free()
    return {"outcome": OUT}


def free() -> None:
    """Give back what nothing needs any more."""
    gc.collect()
    torch.cuda.empty_cache()


def study(folder: Path, plan: Plan, device: torch.device, resume: bool) -> Table:
    """The table, row by row: memory first, while nothing else lies on the device."""
    table, chest = (
        Table(folder, ("measure", "arm", "shape", "device"), resume),
        Chest(folder, plan, device),
    )

    def row(
        measure: str, arm: str, shape: tuple[int, ...], work: Callable[[], dict[str, Any]]
    ) -> None:
        known = {"measure": measure, "arm": arm, "shape": by(shape), "device": named(device)}
        if not table.has(**known):
            table.tell({**known, **affordable(work)})

    for edge in plan.edges:
        for arm, field in FIELDS.items():
            if not table.has(measure="memory", arm=arm, device=named(device), outcome=OUT):
                row(
                    "memory",
                    arm,
                    (edge,) * 3,
                    partial(stepped, field, edge, max(3, plan.repeats), device),
                )
    for name in chest.stages:
        row("stage", name, plan.shape, partial(chest.timed, name))
    for name in chest.stages:
        for precision in (SAME, TF32, *HALF):
            row(
                "precision",
                f"{name}, {precision}",
                plan.shape,
                partial(tried, precision, partial(chest.compared, name, precision)),
            )
    return table


def by(shape: tuple[int, ...]) -> str:
    """``192 x 192 x 208``."""
    return " x ".join(map(str, shape))


def claims(table: Table, device: str) -> list[dict[str, Any]]:
    """The targets, which are for a card and the whole chest, and what else was measured on this
    device.
    """

    def reached(column: str, measure: str, arm: str) -> float | None:
        return (
            None
            if device == "cpu"
            else table.mean(column, measure=measure, arm=arm, shape=by(FULL.shape), device=device)
        )

    targets: list[Claim] = [
        (f"{name} stage of the preset lung, s", reached("seconds", "stage", name), "<=", limit)
        for name, limit in LIMITS_S.items()
    ]
    for precision in (TF32, *HALF):
        for name in LIMITS_S:
            arm = f"{name}, {precision}"
            targets.append(
                (
                    f"{arm}: mean distance from single precision, mm",
                    reached("mean_mm", "precision", arm),
                    "<=",
                    LIMIT_MM,
                )
            )
            targets.append(
                (
                    f"{arm}: largest distance where only the evaluation is run so, mm",
                    reached("rendered_max_mm", "precision", arm),
                    "<=",
                    LIMIT_MM,
                )
            )
    here = [row for row in table.rows if row["device"] == device]
    plain = [
        (f"{row['measure']}, {row['arm']}, {row['shape']}: {column}", row.get(column))
        for row in here
        for column in ("seconds", "peak_mb", "step_ms", "mean_mm", "max_mm")
    ]
    ended = [
        (f"memory, {row['arm']}: out of memory at an edge of, voxels", row["shape"].split()[0])
        for row in here
        if row["measure"] == "memory" and row["outcome"] == OUT
    ]
    return [
        *judged(targets),
        *(
            {"measure": measure, "value": float(value), "target": None, "met": None}
            for measure, value in [*plain, *ended]
            if value
        ),
    ]


def draw(table: Table, device: str, path: Path) -> None:
    """Memory and time of a step against the edge of the image, from the table; a cross stands at
    the size that did not fit.
    """
    from matplotlib.figure import Figure

    rows = [row for row in table.rows if row["measure"] == "memory" and row["device"] == device]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (column, label, unit) in zip(
        figure.subplots(1, 2),
        (("peak_mb", "peak memory, GB", 1e3), ("step_ms", "time of a step, ms", 1.0)),
        strict=True,
    ):
        for i, arm in enumerate(FIELDS):
            mine = [row for row in rows if row["arm"] == arm]
            sized = [
                (int(row["shape"].split()[0]), float(row[column]) / unit)
                for row in mine
                if row["outcome"] == DONE
            ]
            axes.plot(
                [edge for edge, _ in sized],
                [value for _, value in sized],
                "o-",
                color=f"C{i}",
                label=arm,
            )
            for row in mine:
                if row["outcome"] == OUT:
                    axes.plot(
                        int(row["shape"].split()[0]),
                        0.96 - 0.05 * i,
                        "x",
                        color=f"C{i}",
                        transform=axes.get_xaxis_transform(),
                        label=f"{arm}: {OUT}",
                    )
        axes.set(xlabel="voxels along an edge", ylabel=label, yscale="log")
    figure.axes[0].legend(fontsize=8)
    figure.suptitle(device, fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = study_parser(__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    table = study(arguments.output, QUICK if arguments.quick else FULL, device, arguments.resume)
    draw(table, named(device), arguments.output / "memory.png")
    write_summary(arguments.output, claims(table, named(device)))


if __name__ == "__main__":
    main()
