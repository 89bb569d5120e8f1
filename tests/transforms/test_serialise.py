"""Saved transforms: what comes back is the same map, bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from worlds import TRANSFORMS, between_voxels

from inrreg.core.errors import TransformError
from inrreg.core.grid import Cube, Grid
from inrreg.transforms import (
    Composite,
    FreeForm,
    Neural,
    NeuralModel,
    NumericInverse,
    Transform,
    load_transform,
    save_transform,
)
from inrreg.transforms.base import TYPES


@pytest.fixture(params=TRANSFORMS)
def transform(request: pytest.FixtureRequest, grid: Grid, generator: torch.Generator) -> Transform:
    return TRANSFORMS[request.param](grid, generator)


@pytest.fixture
def saved(tmp_path: Path, grid: Grid, generator: torch.Generator) -> Path:
    save_transform(TRANSFORMS["bspline"](grid, generator), tmp_path / "transform")
    return tmp_path / "transform"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_map_is_identical_bit_for_bit(
    transform: Transform, grid: Grid, tmp_path: Path, dtype: torch.dtype
) -> None:
    # which asks 1e-8 mm of single precision in vain
    if dtype == torch.float32 and not isinstance(transform, NumericInverse):
        transform = transform.float()
    x = between_voxels(grid, 30, torch.Generator().manual_seed(1))
    save_transform(transform, tmp_path)
    loaded = load_transform(tmp_path)
    # as what was loaded is: with a derivative to record other loops run, which round in their own
    # way
    transform.requires_grad_(False)
    assert type(loaded) is type(transform)
    assert {k: v.dtype for k, v in loaded.state_dict().items()} == {
        k: v.dtype for k, v in transform.state_dict().items()
    }
    assert torch.equal(loaded(x), transform(x))
    assert torch.equal(loaded.jacobian(x), transform.jacobian(x))
    if not isinstance(transform, NumericInverse):
        assert torch.equal(loaded.displacement_on(grid), transform.displacement_on(grid))


def test_saving_does_not_change_it_and_saves_the_same_bytes(
    transform: Transform, tmp_path: Path
) -> None:
    before = {k: v.clone() for k, v in transform.state_dict().items()}
    save_transform(transform, tmp_path / "a")
    save_transform(load_transform(tmp_path / "a"), tmp_path / "b")
    assert all(torch.equal(v, before[k]) for k, v in transform.state_dict().items())
    for file in ("transform.json", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_what_is_loaded_is_frozen_and_on_its_device(saved: Path, device: torch.device) -> None:
    loaded = load_transform(saved, device)
    assert loaded.device.type == device.type
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_json_says_what_it_is_and_in_which_frame(saved: Path, grid: Grid) -> None:
    description = json.loads((saved / "transform.json").read_text())
    assert description["schema"] == 1
    assert description["frame"] == "RAS mm; maps fixed world points to moving world points"
    assert description["transform"]["type"] == "BSpline"
    assert Grid.from_json(description["transform"]["lattice"]).ndim == grid.ndim
    assert set(load_file(saved / "weights.safetensors")) == {"coefficients"}


@pytest.mark.parametrize(
    "model",
    [FreeForm(8.0), NeuralModel(options={"width": 8, "depth": 2}), NeuralModel(lattice_mm=6.0)],
    ids=repr,
)
def test_what_models_build_can_be_saved(
    model: FreeForm | NeuralModel, grid: Grid, generator: torch.Generator, tmp_path: Path
) -> None:
    transform = model.build(grid, generator)
    with torch.no_grad():
        for parameter in transform.parameters():
            parameter.add_(0.01)
    save_transform(transform, tmp_path)
    assert torch.equal(
        load_transform(tmp_path).displacement_on(grid), transform.displacement_on(grid)
    )


def test_one_transform_may_stand_twice_in_a_chain(
    grid: Grid, generator: torch.Generator, tmp_path: Path
) -> None:
    spline = TRANSFORMS["bspline"](grid, generator)
    chain = Composite(
        [spline, spline, spline.inverse(), TRANSFORMS["rigid"](grid, generator)]
    ).requires_grad_(False)
    save_transform(chain, tmp_path)
    x = between_voxels(grid, 10, generator)
    assert torch.equal(load_transform(tmp_path)(x), chain(x))


def test_every_kind_of_transform_has_a_name() -> None:
    assert all(name == kind.__name__ for name, kind in TYPES.items())
    assert {kind.__name__ for kind in _concrete(Transform)} <= set(TYPES)


def _concrete(kind: type) -> set[type]:
    own = {sub for sub in kind.__subclasses__() if sub.__module__.startswith("inrreg.")}
    return own.union(*[_concrete(sub) for sub in own])


# --- what cannot be saved or loaded ---------------------------------------------------------------


class Swirl(Transform):
    """A transform of the user's own that the package does not know."""

    ndim = 3

    def displacement(self, points: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(points)

    def config(self) -> dict[str, int]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, int]) -> "Swirl":
        return cls()


def test_a_transform_of_the_users_own_is_saved_and_loaded(tmp_path: Path) -> None:
    save_transform(Swirl(), tmp_path)
    assert isinstance(load_transform(tmp_path), Swirl)


def test_a_type_with_the_name_of_another_is_not_saved(tmp_path: Path) -> None:
    taken = type("Rigid", (Swirl,), {"__module__": "elsewhere"})
    with pytest.raises(
        TransformError,
        match=(
            r"elsewhere.Rigid has the name of inrreg.transforms.linear.Rigid, so it cannot be"
            r" saved; rename the class"
        ),
    ):
        save_transform(taken(), tmp_path)


def test_an_unnamed_network_is_not_saved(grid: Grid, tmp_path: Path) -> None:
    neural = Neural(nn.Linear(grid.ndim, grid.ndim), Cube.around(grid))
    with pytest.raises(
        TransformError,
        match=(
            r"a network of type Linear has no name to be saved under; add it to"
            r" inrreg.fields.FIELDS"
        ),
    ):
        save_transform(neural, tmp_path)


def test_a_folder_without_a_transform(tmp_path: Path) -> None:
    with pytest.raises(
        TransformError,
        match=(
            r"nowhere holds no readable transform \(.*No such file.*\); point to a folder that"
            r" inrreg wrote"
        ),
    ):
        load_transform(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ["{", "\x00"])
def test_damaged_json(saved: Path, damage: str) -> None:
    (saved / "transform.json").write_text(damage)
    with pytest.raises(TransformError, match="holds no readable transform"):
        load_transform(saved)


@pytest.mark.parametrize("damage", [b"", b"not weights", b"\xff" * 64])
def test_damaged_weights(saved: Path, damage: bytes) -> None:
    (saved / "weights.safetensors").write_bytes(damage)
    with pytest.raises(TransformError, match="holds no readable transform"):
        load_transform(saved)


def rewrite(folder: Path, **changes: object) -> None:
    description = json.loads((folder / "transform.json").read_text())
    (folder / "transform.json").write_text(json.dumps({**description, **changes}))


def test_another_schema(saved: Path) -> None:
    rewrite(saved, schema=7)
    with pytest.raises(TransformError, match="has transform schema 7, this version reads 1"):
        load_transform(saved)
    (saved / "transform.json").write_text("[]")
    with pytest.raises(TransformError, match="has transform schema None"):
        load_transform(saved)


def test_an_unknown_type_is_not_loaded(saved: Path) -> None:
    rewrite(saved, transform={"type": "Whirl"})
    with pytest.raises(TransformError, match="no transform type is called 'Whirl'; known are "):
        load_transform(saved)


def test_descriptions_and_weights_must_belong_together(
    saved: Path, tmp_path: Path, grid: Grid, generator: torch.Generator
) -> None:
    rewrite(saved, transform={"type": "BSpline"})
    with pytest.raises(TransformError, match="incomplete or not of the same transform"):
        load_transform(saved)
    save_transform(TRANSFORMS["linear field"](grid, generator), tmp_path / "other")
    rewrite(
        saved,
        transform=json.loads((tmp_path / "other" / "transform.json").read_text())["transform"],
    )
    with pytest.raises(TransformError, match="incomplete or not of the same transform"):
        load_transform(saved)
