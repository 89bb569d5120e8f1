"""The study of the encoder: what counts as the same loss, and what is claimed."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.nephi")


def test_iterations_are_counted_to_the_loss_of_the_same_pair(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "LENGTHS", (30, 60, 105, 150))
    table = study.Table(tmp_path, ("seed", "arm", "iterations"), False)
    ends = {
        (1, "usual"): (0.4, 0.3, 0.21, 0.2),
        (2, "usual"): (0.9, 0.6, 0.5, 0.5),
        (1, "encoder"): (0.22, 0.2, 0.19, 0.18),
        (2, "encoder"): (0.49, 0.51, 0.49, 0.49),
        (1, "shared codes"): (0.3, 0.3, 0.3, 0.3),
    }
    for (seed, arm), losses in ends.items():
        for n, loss in zip(study.LENGTHS, losses, strict=True):
            table.add(
                {
                    "seed": seed,
                    "arm": arm,
                    "iterations": n,
                    "start_mm": 2.0,
                    "end_mm": 1.0,
                    "end_loss": loss,
                }
            )
    assert study.iterations(table, "usual") == [150, 105]
    assert study.iterations(table, "encoder") == [60, 30]
    assert study.iterations(table, "shared codes") == [300, 300]
    for arm, error in (("identity", 9.0), ("affine", 1.6)):
        table.add({"seed": 1, "arm": arm, "iterations": 0, "end_mm": error})
    claims = {entry["measure"]: entry for entry in study.claims(table, 32, None)}
    saved, over_identity, over_affine = list(claims.values())[:3]
    assert (round(saved["value"], 1), saved["met"]) == (round(100 * (1 - 90 / 255), 1), True)
    assert (over_identity["met"], over_affine["met"]) == (True, False)
    assert claims["pairs that never come there: shared codes"]["value"] == 2


def test_without_rows_nothing_is_claimed(study: ModuleType, tmp_path: Path) -> None:
    entries = study.claims(study.Table(tmp_path, ("seed", "arm", "iterations"), False), 0, None)
    assert [entry["met"] for entry in entries[:3]] == [None, None, None]
