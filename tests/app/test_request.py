"""The request: run again from config.json, arrays, settings of a preset, and what is refused."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from roof_cases import TINY, pair_3d, saved

from inrreg import presets
from inrreg.app.command_line import main
from inrreg.app.load import load
from inrreg.app.register import prepare, register, register_request
from inrreg.app.request import Request
from inrreg.app.saved_request import INPUTS
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.optimisation import Adam
from inrreg.presets import setting_names, with_settings
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import FreeForm

RATE = "continuous.optimiser.learning_rate"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(presets.PRESETS, "tiny", lambda: TINY)
    return saved(pair_3d(), tmp_path)


def config_of(folder: Path, **options: Any) -> Path:
    job = prepare(folder / "fixed.nii.gz", folder / "moving.nii.gz", preset="tiny", **options)
    path = folder / "config.json"
    path.write_text(json.dumps(job.config))
    return path


def test_config_json_holds_every_field(folder: Path) -> None:
    config = json.loads(config_of(folder).read_text())
    python_only = {"spacing", "affine", "progress"}
    names = {each.name for each in fields(Request)} - python_only
    assert names - set(INPUTS) <= set(config)
    assert set(config["inputs"]) == set(INPUTS)


def test_the_same_is_run_again(folder: Path) -> None:
    options = {
        "fixed_mask": folder / "fixed_mask.nii.gz",
        "landmarks": folder / "landmarks.csv",
        "settings": {RATE: "0.3"},
        "seed": 7,
        "threads": 1,
        "max_memory_mb": 9000.0,
    }
    path = config_of(folder, **options)
    request = Request.from_json(path)
    assert load(request).config == json.loads(path.read_text())
    first = register(folder / "fixed.nii.gz", folder / "moving.nii.gz", preset="tiny", **options)
    again = register_request(request)
    assert torch.equal(
        again.transform.displacement_on(again.grid), first.transform.displacement_on(first.grid)
    )


def test_a_changed_input_is_refused(folder: Path) -> None:
    path = config_of(folder)
    (folder / "moving.nii.gz").write_bytes((folder / "fixed.nii.gz").read_bytes())
    with pytest.raises(InputError, match=r"moving\.nii\.gz is not the file of that run"):
        Request.from_json(path)
    assert Request.from_json(path, moving=folder / "moving.nii.gz", seed=3).seed == 3
    (folder / "moving.nii.gz").unlink()
    with pytest.raises(InputError, match=r"moving\.nii\.gz is not there"):
        Request.from_json(path)


def test_an_input_in_memory_is_refused(folder: Path) -> None:
    pair = pair_3d()
    path = folder / "config.json"
    path.write_text(json.dumps(prepare(pair.fixed, pair.moving, preset="tiny").config))
    with pytest.raises(InputError, match=r"the fixed was given in memory \(Image\)"):
        Request.from_json(path)


def test_another_preset_of_that_name_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config_of(folder)
    changed = with_settings(TINY, {RATE: 0.9})
    monkeypatch.setitem(presets.PRESETS, "tiny", lambda: changed)
    with pytest.raises(InputError, match="differs from the one of that run"):
        Request.from_json(path)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"give the config\.json of a result folder"):
        Request.from_json(tmp_path / "config.json")


class TestArrays:
    def test_lie_on_the_given_grid(self) -> None:
        arrays = [np.random.default_rng(i).random((12, 13, 14)) for i in range(2)]
        by_spacing = prepare(*arrays, preset=TINY, spacing=(1.0, 2.0, 3.0)).pair
        by_affine = prepare(*arrays, preset=TINY, affine=np.diag([1.0, 2.0, 3.0, 1.0])).pair
        expected = Grid.from_spacing((12, 13, 14), (1.0, 2.0, 3.0))
        for pair in (by_spacing, by_affine):
            assert pair.fixed.grid.same_as(expected)
            assert pair.moving.grid.same_as(expected)

    def test_without_an_array_a_grid_is_refused(self) -> None:
        image = Image(torch.rand(1, 8, 8), Grid.from_spacing((8, 8), 1.0))
        with pytest.raises(InputError, match="no image is an array"):
            prepare(image, image, preset=TINY, spacing=1.0)

    def test_broken_grids_are_refused(self) -> None:
        array = np.random.default_rng(0).random((8, 8))
        with pytest.raises(InputError, match="both given"):
            prepare(array, array, spacing=1.0, affine=np.eye(3))
        for spacing in ((1.0, 1.0, 1.0), -1.0):
            with pytest.raises(InputError, match="does not fit an array of the shape"):
                prepare(array, array, preset=TINY, spacing=spacing)


class TestSettings:
    @pytest.mark.parametrize("name", presets.PRESETS)
    def test_every_name_is_known(self, name: str) -> None:
        names = setting_names(presets.preset(name))
        assert len(names) == len(set(names)) > 20
        assert "start.level_mm" in names

    def test_change_one_value(self) -> None:
        lung = presets.preset("lung")
        changed = with_settings(lung, {RATE: "0.2", "continuous.scales.0.iterations": 3})
        assert changed.stages[:-1] == lung.stages[:-1]
        inner: Any = changed.stages[-1]
        assert inner.stage.stage.optimiser.learning_rate == 0.2
        assert inner.stage.stage.scales[0] == Scale(4, 3, 8.0)
        assert with_settings(changed, {RATE: 0.5, "continuous.scales.0.iterations": "20"}) == lung

    @pytest.mark.parametrize(
        ("name", "value", "pattern"),
        [
            ("continuous.optimizer.learning_rate", 1, f"the nearest is '{RATE}'"),
            ("continuous.scales.0.iterations", 2.5, "takes a whole number, but was given 2.5"),
            (RATE, "fast", "takes a number, but was given 'fast'"),
            (RATE, -1, "learning_rate must be a finite number above 0"),
            ("continuous.use_moving_mask", "yes", "takes true or false"),
        ],
    )
    def test_are_refused(self, name: str, value: object, pattern: str) -> None:
        with pytest.raises(InputError, match=pattern):
            with_settings(presets.preset("lung"), {name: value})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Scale(-4, 5),
        lambda: Scale(4, 0),
        lambda: LNCC(-3),
        lambda: Adam(-1),
        lambda: Registration(FreeForm(), (LNCC(),), scales=()),
        lambda: Registration(FreeForm(), LNCC(9.0)),  # type: ignore[arg-type]
        lambda: FreeForm(float("nan")),
    ],
)
def test_settings_are_checked_where_they_are_made(make: Any) -> None:
    with pytest.raises(InputError, match="must be"):
        make()


def test_the_command_line_runs_a_config_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_of(folder, seed=7, settings={RATE: "0.3"})
    with pytest.raises(SystemExit) as ending:
        main(f"register --config {path} -o {folder / 'out'} --dry-run --threads 1".split(" "))
    assert ending.value.code == 0
    assert "1 threads, seed 7" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ending:
        main(["register", "-o", str(folder / "out")])
    assert ending.value.code == 2
    assert "FIXED and MOVING not given" in capsys.readouterr().err
