"""config.json: every setting of a preset, down to the defaults, and what came in."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from roof_cases import TINY, landmarks_of, pair_3d, saved

import inrreg
from inrreg.app.config import image_hash, input_entry, versions
from inrreg.app.register import prepare
from inrreg.core.grid import Grid
from inrreg.core.image import Image, Points
from inrreg.objective.features import intensities
from inrreg.optimisation import Outcome
from inrreg.phantoms import PhantomPair
from inrreg.presets import PRESETS
from inrreg.transforms import Translation
from inrreg.transforms.description import described, weights_hash


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    feature: Callable[[Image], Image] = intensities


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(1.0),)
    table: dict[str, Any] | None = None


def test_dataclasses_are_told_down_to_their_defaults() -> None:
    assert described(Outer(table={"a": (1, 2)})) == {
        "type": "Outer",
        "inner": {"type": "Inner", "rate": 0.5, "feature": "intensities"},
        "many": [{"type": "Inner", "rate": 1.0, "feature": "intensities"}],
        "table": {"a": [1, 2]},
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.25, 0.25),
        ("text", "text"),
        (np.float32(0.5), 0.5),
        (float("inf"), "inf"),
        (Outcome.FOLDED, "FOLDED"),
        (Path("a"), "a"),
        (torch.float32, "torch.float32"),
        (Translation, "Translation"),
        (partial(intensities), "partial"),
        (torch.nn.ReLU(), "ReLU"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_becomes_json(value: Any, expected: Any) -> None:
    assert described(value) == expected
    json.dumps(described(value), allow_nan=False)


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_of_a_preset_is_told(name: str) -> None:
    def check(value: Any, told: Any) -> int:
        if is_dataclass(value) and not isinstance(value, type):
            assert told["type"] == type(value).__name__
            assert set(told) - {"type"} == {f.name for f in fields(value)}
            return 1 + sum(check(getattr(value, f.name), told[f.name]) for f in fields(value))
        if isinstance(value, tuple):
            return sum(check(item, entry) for item, entry in zip(value, told, strict=True))
        return 0

    chosen = inrreg.preset(name)
    told = json.loads(json.dumps(described(chosen), allow_nan=False))
    assert check(chosen, told) > 5


class TestHashes:
    def test_of_images_see_values_and_grid(self) -> None:
        grid = Grid.from_spacing((4, 5), 1.0)
        image = Image(torch.arange(20.0).reshape(1, 4, 5), grid, "one")
        moved = Image(image.data, Grid.from_spacing((4, 5), 1.0, origin=(0.0, 1e-6)))
        changed = Image(image.data + torch.eye(4, 5)[None] * 1e-6, grid)
        turned = Image(image.data.reshape(1, 5, 4), Grid.from_spacing((5, 4), 1.0))
        assert len({image_hash(each) for each in (image, moved, changed, turned)}) == 4
        assert image_hash(image) == image_hash(Image(image.data.clone(), grid, "other name"))

    def test_of_weights(self) -> None:
        assert (
            weights_hash(Translation.by([1.0, 2.0]))
            == weights_hash(Translation.by([1.0, 2.0]))
            != weights_hash(Translation.by([1.0, 2.5]))
        )

    def test_of_files(self, tmp_path: Path) -> None:
        (tmp_path / "points.csv").write_bytes(b"label,...")
        points = Points.from_array(np.zeros((3, 2)))
        entry = input_entry(tmp_path / "points.csv", (points, points))
        assert entry["file"] == str(tmp_path / "points.csv")
        assert entry["file_sha256"] == hashlib.sha256(b"label,...").hexdigest()
        assert entry["n"] == 3


class TestAJob:
    @pytest.fixture
    def pair(self) -> PhantomPair:
        return pair_3d()

    def test_of_files(self, pair: PhantomPair, tmp_path: Path) -> None:
        folder = saved(pair, tmp_path)
        files = {name: folder / f"{name}.nii.gz" for name in ("fixed", "moving", "fixed_mask")} | {
            "landmarks": folder / "landmarks.csv"
        }
        config = prepare(**files, preset=TINY, seed=7, threads=3).config
        assert json.loads(json.dumps(config, allow_nan=False)) == config
        assert (
            config["inrreg"],
            config["seed"],
            config["threads"],
            config["device"],
            config["initial"],
        ) == (inrreg.__version__, 7, 3, "cpu", None)
        assert config["preset"] == described(TINY)
        assert config["versions"] == versions()
        for name, file in files.items():
            assert config["inputs"][name]["file"] == str(file)
            assert (
                config["inputs"][name]["file_sha256"]
                == hashlib.sha256(file.read_bytes()).hexdigest()
            )
        assert config["inputs"]["moving_mask"] is config["inputs"]["guide_landmarks"] is None
        assert Grid.from_json(config["inputs"]["moving"]["grid"]).same_as(pair.moving.grid)

    def test_of_objects_in_memory(self, pair: PhantomPair) -> None:
        inputs = prepare(
            pair.fixed,
            pair.moving,
            preset=TINY,
            moving_mask=pair.moving_mask,
            guide_landmarks=landmarks_of(pair),
        ).config["inputs"]
        assert {name: entry["object"] for name, entry in inputs.items() if entry} == {
            "fixed": "Image",
            "moving": "Image",
            "moving_mask": "LabelImage",
            "guide_landmarks": "tuple",
        }
        assert inputs["fixed"]["sha256"] == image_hash(pair.fixed)
        assert inputs["guide_landmarks"]["n"] == len(pair.fixed_landmarks)

    def test_default_threads_are_told_as_a_number(self, pair: PhantomPair) -> None:
        assert (
            prepare(pair.fixed, pair.moving, preset=TINY).config["threads"]
            == torch.get_num_threads()
        )


def test_versions_are_those_installed() -> None:
    assert versions()["torch"] == torch.__version__
    assert versions()["numpy"] == np.__version__
    assert set(versions()) == {
        "inrreg",
        "python",
        "torch",
        "numpy",
        "scipy",
        "nibabel",
        "SimpleITK",
        "system",
        "machine",
    }
