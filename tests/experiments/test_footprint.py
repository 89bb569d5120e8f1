"""The benchmark of memory and importing: a small pair registered for real, what is refused, rows,
resuming and the targets.
"""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from inrreg.core.errors import RegistrationError
from inrreg.io import read_image

SHAPE = (30, 28, 20)


@pytest.fixture
def footprint(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark on a chest so small that its preset, without a pyramid, is done in a few
    seconds.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    module = importlib.import_module("experiments.benchmarks.footprint")
    monkeypatch.setattr(module, "PRESET", "graph")
    monkeypatch.setattr(module, "BOX_MM", (120.0, 112.0, 100.0))
    monkeypatch.setattr(module, "MOTION_MM", 6.0)
    monkeypatch.setattr(module, "IMPORTS", 1)
    return module


def by_measure(table: Any) -> dict[str, dict[str, str]]:
    return {row["measure"]: row for row in table.rows}


def test_a_small_pair_is_registered_measured_and_judged(
    footprint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["footprint", "--shape", *map(str, SHAPE), "-o", str(tmp_path)]
    )
    footprint.main()
    rows = by_measure(footprint.Table(tmp_path, (), True))
    assert list(rows) == ["import", "pair", "refusal"]
    assert read_image(
        tmp_path / "pairs" / "30x28x20" / "fixed.nii.gz"
    ).grid.spacing == pytest.approx([4, 4, 5])
    pair, refusal = rows["pair"], rows["refusal"]
    assert pair["shape"] == "30 x 28 x 20"
    assert float(pair["mean_mm"]) < 0.7 * float(pair["initial_mm"])
    assert 150 < float(pair["memory_mb"]) < float(pair["estimated_mb"])  # torch alone holds as much
    assert 0 < float(pair["register_s"]) < float(pair["seconds"])
    assert refusal["outcome"].startswith("refused")
    assert float(refusal["allowed_mb"]) == pytest.approx(0.9 * float(pair["estimated_mb"]), abs=0.1)
    assert float(refusal["memory_mb"]) < float(pair["memory_mb"])
    assert float(rows["import"]["torch_s"]) > float(rows["import"]["inrreg_s"]) > 0
    met = {
        entry["measure"]: entry["met"]
        for entry in json.loads((tmp_path / "summary.json").read_text())
    }
    assert met["peak memory of 30 x 28 x 20 voxels, GiB"]
    assert met["nine tenths of the estimate allowed: refused before any work"]
    assert len(met) == 6


def test_a_resumed_study_repeats_no_row(
    footprint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"memory_mb": 8000.0, "estimated_mb": 7000.0}
    for name in ("registered", "refused"):
        monkeypatch.setattr(
            footprint, name, lambda benchmark, folder, threads: {**numbers, "outcome": "converged"}
        )
    monkeypatch.setattr(footprint, "chest", lambda shape, root: None)
    monkeypatch.setattr(
        footprint, "imported", lambda: {"torch_s": 2.0, "inrreg_s": 0.01, "front_door_s": 0.4}
    )
    footprint.study(SHAPE, tmp_path, threads=1, resume=False)
    met = {
        entry["measure"].split(",")[0]: entry["met"]
        for entry in json.loads((tmp_path / "summary.json").read_text())
    }
    # both bounds of the estimate share a name here, and the second one holds
    assert list(met.values()) == [False, True, False, True, False]
    for name in ("registered", "refused", "imported"):
        monkeypatch.setattr(footprint, name, lambda *_: pytest.fail("a row is made again"))
    assert len(footprint.study(SHAPE, tmp_path, threads=1, resume=True).rows) == 3


def test_another_failure_is_no_refusal(
    footprint: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise RegistrationError("ended with code 1: out of memory")

    (tmp_path / "usage.json").write_text(
        json.dumps({"seconds": 1.0, "cpu_s": 1.0, "memory_mb": 100.0})
    )
    monkeypatch.setattr(footprint, "estimate", lambda _: 1000.0)
    monkeypatch.setattr(footprint, "run", failing)
    assert (
        footprint.refused(None, tmp_path, 1)["outcome"]
        == "failed: ended with code 1: out of memory"
    )


def test_without_rows_nothing_is_claimed(footprint: ModuleType, tmp_path: Path) -> None:
    assert {entry["met"] for entry in footprint.claims(footprint.Table(tmp_path, (), False))} == {
        None
    }
