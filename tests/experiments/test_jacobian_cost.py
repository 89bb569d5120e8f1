"""The benchmark of Jacobian penalties: every way gives the same penalty, and the table has a row a
field.
"""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from inrreg.fields import FIELDS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.benchmarks.jacobian_cost")


@pytest.mark.parametrize("name", FIELDS)
def test_ways_at_all_points_agree(benchmark: ModuleType, name: str) -> None:
    ways = benchmark.steps(
        benchmark.field(name, 16, torch.device("cpu")), 1000, torch.device("cpu")
    )
    values = [float(ways[way]().detach()) for way in ("backward twice", "forward mode", "tangents")]
    assert values == pytest.approx([values[0]] * 3, rel=1e-4)
    assert values[0] > float(ways["u alone"]().detach()) > 0


def test_it_writes_a_row_a_field_and_what_is_met(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(
        sys,
        "argv",
        ["jacobian_cost", "--points", "216", "--width", "8", "--repeats", "1", "-o", str(tmp_path)],
    )
    benchmark.main()
    torch.set_num_threads(threads)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["field", *FIELDS]
    entries = json.loads((tmp_path / "summary.json").read_text())
    assert len(entries) == 4 * len(FIELDS)
    assert all(entry["met"] == (entry["value"] <= 2) for entry in entries)


def test_ratios_are_to_the_step_that_stands_beside(benchmark: ModuleType) -> None:
    taken = {"u alone": 2.0, "tangents": 8.0, "rendered, u alone": 1.0, "rendered": 1.5}
    assert benchmark.ratios(taken) == {"tangents": 4.0, "rendered": 1.5}
