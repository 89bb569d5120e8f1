"""The study beside Demeter, on a generated C: what is judged, and what is claimed where a tool is
missing.
"""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.metamorphosis import Resolution
from inrreg.phantoms import cut_c_pair
from inrreg.transforms import identity
from inrreg.transforms.warp import warp

ROOT = Path(__file__).parents[2]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The study at coarse resolution."""
    monkeypatch.syspath_prepend(str(ROOT))
    module = importlib.import_module("experiments.shooting_2d")
    monkeypatch.setattr(module, "LEVELS", (Resolution(4, 8), Resolution(2, 8)))
    return module


def pictures(study: ModuleType) -> object:
    phantom, absent = cut_c_pair()
    flat = Grid.from_spacing(phantom.fixed.grid.shape, 1.0)
    moving = warp(phantom.moving, identity(2), phantom.fixed.grid)
    return study.Pictures(
        *(Image(image.data.float(), flat, image.name) for image in (phantom.fixed, moving, absent))
    )


def test_the_map_is_judged_outside_the_lesion(study: ModuleType) -> None:
    case = pictures(study)
    before = case.judged(torch.zeros(*case.fixed.grid.shape, 2))
    half = 0.5 * (case.moving.data - case.fixed.data).square()
    assert before["outside"] + before["inside"] == pytest.approx(float(half.sum()))
    assert before["inside"] == pytest.approx(float(half[case.lesion.data > 0].sum()))
    assert before["det_min"] == pytest.approx(1)
    after = study.ours(case, "weighted")
    assert after["outside"] < 0.5 * before["outside"]
    assert after["inside"] > 0.7 * before["inside"]
    assert after["det_min"] > 0
    assert after["evaluations"] >= 16


def test_without_demeter_nothing_is_claimed_against_it(study: ModuleType, tmp_path: Path) -> None:
    table = study.Table(tmp_path, ("case", "method", "tool"), False)
    table.add(
        {
            "case": "C",
            "method": "LDDMM",
            "tool": "ours",
            "outside": 3.0,
            "det_min": 0.2,
            "seconds": 1.0,
        }
    )
    assert [entry["met"] for entry in study.claims(table)] == [True, None, None]
    table.add(
        {
            "case": "C",
            "method": "LDDMM",
            "tool": "demeter",
            "outside": 2.0,
            "det_min": -0.1,
            "seconds": 4.0,
        }
    )
    assert [(entry["value"], entry["met"]) for entry in study.claims(table)] == [
        (0.2, True),
        (1.5, False),
        (0.25, True),
    ]
