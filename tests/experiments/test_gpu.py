"""The benchmark of a GPU, on stages and fields small enough for a CPU: rows, resuming, the end of
memory, settings brought back, distances, and what is held against targets.
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Points
from inrreg.core.image_pair import ImagePair
from inrreg.objective.features import intensities
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.phantoms import PhantomPair, blob_pair
from inrreg.presets import Preset, preset
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.transforms import DenseDisplacement, Transform, Translation, identity
from inrreg.transforms.composite import composed
from inrreg.transforms.warp import warp

ROOT = Path(__file__).parents[2]
SHAPE = (16, 14, 12)
PRECISIONS = ("start off by a millionth", "TF32", "float16", "bfloat16")
OFF_MM = {"graph": 0.25, "continuous": 0.5}


@dataclass(frozen=True)
class Known:
    """A stage that finds its start, half precision apart: in float16 it is off by a known distance,
    in bfloat16 it lacks an operation.
    """

    name: str

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        half = (
            torch.get_autocast_dtype(pair.fixed.device.type)
            if torch.is_autocast_enabled(pair.fixed.device.type)
            else None
        )
        if half == torch.bfloat16:
            raise RuntimeError("no such operation\nin bfloat16")
        off = Translation.by([0.0, OFF_MM[self.name] if half == torch.float16 else 0.0, 0.0]).to(
            pair.fixed.device
        )
        return StageResult(
            self.name, composed(off.requires_grad_(False), initial), Outcome.CONVERGED, 0.0
        )


def breathing(*_: object, **__: object) -> PhantomPair:
    """A small pair with landmarks in its ``lung``."""
    pair = blob_pair(SHAPE, spacing=4.0, shift_mm=5.0)
    labels = tuple(f"lung {i}" for i in range(len(pair.fixed_landmarks)))
    return replace(
        pair,
        fixed_landmarks=Points(pair.fixed_landmarks.coords, labels),
        moving_landmarks=Points(pair.moving_landmarks.coords, labels),
    )


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark with a chest of blobs and stages that end at once."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("experiments.benchmarks.gpu")
    monkeypatch.setattr(module, "lung_pair", breathing)
    monkeypatch.setattr(
        module,
        "preset",
        lambda name: Preset(
            name, "", intensities, (InitialTranslation(), Known("graph"), Known("continuous"))
        ),
    )
    monkeypatch.setattr(module, "FULL", module.Plan(SHAPE, 4.0, 5.0, (12, 16), 1))
    return module


def steps_until(edge: int, error: Exception, of: object) -> Callable[..., dict[str, object]]:
    """In place of ``stepped``: the field ``of`` fails from ``edge`` on."""

    def stepped(field: object, size: int, repeats: int, device: torch.device) -> dict[str, object]:
        if field is of and size >= edge:
            raise error
        return {"outcome": "done", "step_ms": 1.0, "peak_mb": float(size)}

    return stepped


def test_rows_figure_and_summary_on_this_device(
    benchmark: ModuleType, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", device.type, "-o", str(tmp_path)])
    benchmark.main()
    rows = benchmark.Table(tmp_path, (), True).rows
    sized = [("memory", arm, f"{n} x {n} x {n}") for n in (12, 16) for arm in benchmark.FIELDS]
    staged = [("stage", name, "16 x 14 x 12") for name in OFF_MM] + [
        ("precision", f"{name}, {how}", "16 x 14 x 12") for name in OFF_MM for how in PRECISIONS
    ]
    assert [(row["measure"], row["arm"], row["shape"]) for row in rows] == sized + staged
    assert {row["device"] for row in rows} == {benchmark.named(device)}
    for row in rows[: len(sized)]:
        assert float(row["step_ms"]) > 0
        assert float(row["peak_mb"]) > 0
    assert [
        float(row["error_mm"]) < float(row["initial_mm"]) + 1e-3
        for row in rows[len(sized) : len(sized) + 2]
    ] == [True, True]
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    targets = {
        entry["measure"]: entry
        for entry in json.loads((tmp_path / "summary.json").read_text())
        if entry["target"]
    }
    assert len(targets) == 2 + 2 * 2 * 3
    on_a_card = device.type == "cuda"
    assert targets["graph stage of the preset lung, s"]["met"] is (True if on_a_card else None)
    assert targets["continuous, float16: mean distance from single precision, mm"]["met"] is (
        False if on_a_card else None
    )


def test_a_precision_is_told_by_how_far_its_map_lies_from_single_precision(
    benchmark: ModuleType, device: torch.device, tmp_path: Path
) -> None:
    plan = replace(benchmark.FULL, edges=())
    rows = {
        row["arm"]: row
        for row in benchmark.study(tmp_path, plan, device, False).rows
        if row["measure"] == "precision"
    }
    for name, off in OFF_MM.items():
        for column in ("mean_mm", "percent99_mm", "max_mm"):
            # the start is evaluated in single precision
            assert float(rows[f"{name}, float16"][column]) == pytest.approx(off, abs=0.01)
        assert float(rows[f"{name}, start off by a millionth"]["max_mm"]) < 1e-3
        assert rows[f"{name}, bfloat16"]["outcome"] == "fails: no such operation"
        tf32 = rows[f"{name}, TF32"]
        assert tf32["outcome"] == (
            "converged" if device.type == "cuda" else "not applicable on a CPU"
        )
        assert ("mean_mm" in tf32) is (device.type == "cuda")


def test_a_resumed_study_repeats_no_row(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cpu")
    with monkeypatch.context() as quick:
        quick.setattr(benchmark, "stepped", steps_until(20, MemoryError(), None))
        first = benchmark.study(tmp_path, benchmark.FULL, device, False)
    whole = [dict(row) for row in first.rows]
    first.rows[:] = [
        row for row in first.rows if (row["measure"], row["arm"]) != ("stage", "graph")
    ]
    first.add(first.rows.pop())  # writes the table without the row
    timed: list[str] = []
    monkeypatch.setattr(
        benchmark.Chest,
        "timed",
        lambda chest, name: (timed.append(name), {"outcome": "done", "seconds": 1.0})[1],
    )
    monkeypatch.setattr(
        benchmark.Chest,
        "compared",
        lambda chest, name, precision: pytest.fail("a row is made again"),
    )
    monkeypatch.setattr(benchmark, "stepped", lambda *_: pytest.fail("a row is made again"))
    assert len(benchmark.study(tmp_path, benchmark.FULL, device, True).rows) == len(whole)
    assert timed == ["graph"]


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["device", "host"]
)
def test_a_series_ends_where_memory_does(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    device, plan = torch.device("cpu"), replace(benchmark.FULL, edges=(12, 16, 20))
    monkeypatch.setattr(
        benchmark, "stepped", steps_until(16, error, benchmark.FIELDS["dense field"])
    )
    monkeypatch.setattr(benchmark.Chest, "timed", lambda *_: {"outcome": "done"})
    monkeypatch.setattr(benchmark.Chest, "compared", lambda *_: {"outcome": "done"})
    for resume in (False, True):
        table = benchmark.study(tmp_path, plan, device, resume)
        rows = [row for row in table.rows if row["measure"] == "memory"]
        assert [(row["shape"], row["outcome"]) for row in rows if row["arm"] == "dense field"] == [
            ("12 x 12 x 12", "done"),
            ("16 x 16 x 16", "out of memory"),
        ]
        assert [row["outcome"] for row in rows if row["arm"] == "free-form, 6 mm"] == ["done"] * 3
    assert {
        "measure": "memory, dense field: out of memory at an edge of, voxels",
        "value": 16.0,
        "target": None,
        "met": None,
    } in benchmark.claims(table, "cpu")
    benchmark.draw(table, "cpu", tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 0


def test_other_errors_are_not_taken_for_the_end_of_memory(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        benchmark,
        "stepped",
        steps_until(12, RuntimeError("shapes differ"), benchmark.FIELDS["dense field"]),
    )
    with pytest.raises(RuntimeError, match="shapes differ"):
        benchmark.study(tmp_path, benchmark.FULL, torch.device("cpu"), False)


def raising(error: Exception) -> Callable[[], dict[str, object]]:
    def work() -> dict[str, object]:
        raise error

    return work


def test_only_half_precision_may_fail(benchmark: ModuleType) -> None:
    assert benchmark.tried("float16", raising(RuntimeError("expected dtype float\nbut"))) == {
        "outcome": "fails: expected dtype float"
    }
    with pytest.raises(RuntimeError, match="no kernel"):
        benchmark.tried("TF32", raising(RuntimeError("no kernel")))
    assert benchmark.affordable(
        lambda: benchmark.tried("float16", raising(torch.OutOfMemoryError("full")))
    ) == {"outcome": "out of memory"}


def settings(device: torch.device) -> tuple[bool, bool, bool]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.is_autocast_enabled(device.type),
    )


@pytest.mark.parametrize(
    ("precision", "meant"),
    [
        ("TF32", (True, True, False)),
        ("float16", (False, False, True)),
        ("float32", (False, False, False)),
    ],
)
def test_settings_hold_inside_the_block_alone(
    benchmark: ModuleType, device: torch.device, precision: str, meant: tuple[bool, bool, bool]
) -> None:
    before = settings(device)
    assert before[1]  # torch's default, which single precision turns off
    inside = []

    def broken() -> None:
        with benchmark.computing_in(precision, device):
            inside.append(settings(device))
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert inside == [meant]
    assert settings(device) == before


def test_without_a_gpu_cuda_is_refused_before_anything_is_touched(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.csv").write_text("measure\nold\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "-o", str(tmp_path)])
    with pytest.raises(
        InputError,
        match=(
            "torch finds no CUDA device here; run it where there is one, or take --device cpu"
            " --quick"
        ),
    ):
        benchmark.main()
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    assert (tmp_path / "table.csv").read_text() == "measure\nold\n"


def test_a_field_at_every_voxel_is_read_on_its_own_grid_and_interpolated_elsewhere(
    benchmark: ModuleType, grid_3d: Grid, device: torch.device, generator: torch.Generator
) -> None:
    vectors = torch.randn(*grid_3d.shape, 3, generator=generator)
    field, plain = (
        kind(vectors, grid_3d).to(device) for kind in (benchmark.VoxelField, DenseDisplacement)
    )
    assert torch.equal(field.displacement_on(grid_3d), field.vectors)
    # rounding of world points
    torch.testing.assert_close(plain.displacement_on(grid_3d), field.vectors, atol=1e-4, rtol=0)
    coarse = grid_3d.resampled(3.0)
    assert torch.equal(field.displacement_on(coarse), plain.displacement_on(coarse))


@pytest.mark.parametrize("name", ["free-form, 6 mm", "SIREN rendered, 12 mm", "dense field"])
def test_every_field_is_fitted_to_the_shifted_texture(
    benchmark: ModuleType, device: torch.device, name: str
) -> None:
    pair = benchmark.cubes(24, device)
    stage = Registration(
        benchmark.FIELDS[name](pair.fixed.grid),
        (LNCC(9.0),),
        scales=(Scale(1.5, 6),),
        optimiser=benchmark.Adam(0.2 if "SIREN" not in name else 1e-3),
    )
    result = stage.run(pair)
    assert result.transform.device.type == device.type
    assert result.history[-1].cost < result.history[0].cost - 1e-3


def test_the_moving_cube_is_the_fixed_one_shifted(
    benchmark: ModuleType, device: torch.device
) -> None:
    pair = benchmark.cubes(32, device)
    inner = (slice(None), *[slice(4, -4)] * 3)
    back = warp(
        pair.moving, Translation.by([-s for s in benchmark.SHIFT_MM]).to(device), pair.fixed.grid
    )
    right, wrong = (
        (image.data - pair.fixed.data)[inner].square().mean().sqrt()
        for image in (back, warp(pair.moving, identity(3).to(device), pair.fixed.grid))
    )
    assert right < 0.1 * wrong  # what linear interpolation blurs


def test_the_stages_are_those_of_the_preset_lung() -> None:
    assert [stage.name for stage in preset("lung").stages[-2:]] == ["graph", "continuous"]
