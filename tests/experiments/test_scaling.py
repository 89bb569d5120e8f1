"""The study of how error and time grow, on blobs and stages that end at once: trials, rows,
resuming, figures and what the summary lists.
"""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from inrreg.core.image import Points
from inrreg.objective.features import intensities
from inrreg.phantoms import PhantomPair, blob_pair
from inrreg.presets import Preset
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.transforms import LinearModel

ROOT = Path(__file__).parents[2]
SEARCH = Registration(LinearModel("affine"), (MSE(),), scales=(Scale(8, 2),), name="graph")
PRESETS = {
    name: Preset(name, "", intensities, stages)
    for name, stages in (
        ("lung", (InitialTranslation(), SEARCH, SEARCH)),
        ("masks, continuous", (InitialTranslation(),)),
        ("headers, continuous", (InitialTranslation(),)),
    )
}


@pytest.fixture
def made() -> list[tuple[tuple[int, ...], float, float, int]]:
    """Shape, spacing, motion and seed of each pair that was asked for."""
    return []


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, made: list) -> ModuleType:
    """The study with blobs in place of chests, light arms and few steps."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("experiments.scaling")

    def blobs(
        shape: tuple[int, ...], spacing: float, motion_mm: float, seed: int, uneven: float
    ) -> PhantomPair:
        made.append((shape, spacing, motion_mm, seed))
        pair = blob_pair((16, 14, 12), spacing=4.0, shift_mm=motion_mm / 4, seed=seed)
        labels = tuple(f"lung {i}" for i in range(len(pair.fixed_landmarks)))
        return replace(
            pair,
            fixed_landmarks=Points(pair.fixed_landmarks.coords, labels),
            moving_landmarks=Points(pair.moving_landmarks.coords, labels),
        )

    monkeypatch.setattr(module, "lung_pair", blobs)
    monkeypatch.setattr(module, "arms", lambda: PRESETS)
    monkeypatch.setattr(module, "preset", lambda name: PRESETS[name])
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(module, "FULL", module.Plan((801,), (48, 64), (50, 100), (10, 28)))
    return module


def test_rows_figures_and_summary(
    study: ModuleType, made: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", "--threads", "1", "-o", str(tmp_path)])
    study.main()
    rows = study.Table(tmp_path, (), True).rows
    compared = ("lung, after graph", "lung", "masks, continuous")
    meant = (
        [("size", n, arm) for n in (48, 64) for arm in compared]
        + [("points", n, "SIREN") for n in (50, 100)]
        + [("motion", n, arm) for n in (10, 28) for arm in compared]
    )
    assert [(row["series"], int(row["at"]), row["arm"]) for row in rows] == meant
    assert all(float(row["mean_mm"]) > 0 and float(row["seconds"]) > 0 for row in rows)
    assert [row["initial_mm"] for row in rows if row["series"] == "motion"] == ["2.5000"] * 3 + [
        "7.0000"
    ] * 3
    # each pair once
    assert made == [
        ((48, 36, 48), 8.0, 28, 801),
        ((64, 48, 64), 6.0, 28, 801),
        ((96, 72, 96), 4.0, 28, 801),
        ((96, 72, 96), 4.0, 10, 801),
    ]
    assert {tuple(np.multiply(shape, spacing)) for shape, spacing, *_ in made} == {
        (384.0, 288.0, 384.0)
    }
    for series in study.LABELS:
        assert (tmp_path / f"{series}.png").read_bytes().startswith(b"\x89PNG")
    entries = json.loads((tmp_path / "summary.json").read_text())
    assert len(entries) == 2 * len(meant)
    assert {(entry["target"], entry["met"]) for entry in entries} == {(None, None)}
    assert entries[0] == {
        "measure": "size 48, lung, after graph: mean landmark error, mm",
        "value": float(rows[0]["mean_mm"]),
        "target": None,
        "met": None,
    }


def test_a_resumed_study_repeats_no_row(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []
    monkeypatch.setattr(study, "chest", lambda trial, folder: folder)
    monkeypatch.setattr(
        study,
        "rows",
        lambda seed, pair, name, chosen, threads: (
            asked.append((seed, name)),
            [{"seed": seed, "arm": name, "mean_mm": 1.0, "seconds": 2.0}],
        )[1],
    )
    small, large = (
        study.Plan(seeds, (48,), (50,), motions)
        for seeds, motions in (((801,), (10,)), ((801, 802), (10, 20)))
    )
    study.study(tmp_path, small, False, 1)
    asked.clear()
    table = study.study(tmp_path, large, True, 1)
    pair = ["lung", "masks, continuous"]
    # the first to warm up
    assert asked == [(801, "lung")] + [(801, arm) for arm in pair] + [
        (802, arm) for arm in [*pair, "SIREN", *pair, *pair]
    ]
    assert (
        len(table.rows)
        == len({(row["series"], row["at"], row["seed"], row["arm"]) for row in table.rows})
        == 14
    )


def test_a_curve_is_the_mean_over_the_seeds(study: ModuleType, tmp_path: Path) -> None:
    table = study.Table(tmp_path, ("series", "at", "seed", "arm"), False)
    for at, seed, error in ((64, 1, 3.0), (48, 1, 1.0), (48, 2, 2.0)):
        table.add(
            {
                "series": "size",
                "at": at,
                "seed": seed,
                "arm": "lung",
                "mean_mm": error,
                "seconds": 10.0,
            }
        )
    assert study.curves(table, "size") == {"lung": [48, 64]}
    assert [(entry["measure"], entry["value"]) for entry in study.measures(table)][::2] == [
        ("size 48, lung: mean landmark error, mm", 1.5),
        ("size 64, lung: mean landmark error, mm", 3.0),
    ]


def test_a_trial_of_points_differs_in_nothing_else(study: ModuleType) -> None:
    few, many = (study.sampled(count).stages[-1] for count in (50, 100))
    assert (few.sampler.count, many.sampler.count) == (50, 100)
    assert replace(few, sampler=many.sampler) == many


def test_quick_is_part_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("experiments.scaling")
    quick, whole = (
        {(t.series, t.at, t.seed) for t in module.trials(plan)}
        for plan in (module.QUICK, module.FULL)
    )
    assert quick < whole
    assert {
        ("size", 128, 801),
        ("points", 20_000, 801),
        ("motion", 5, 801),
        ("motion", 45, 801),
    } <= quick
