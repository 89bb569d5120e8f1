"""The hash grid: index for index and weight for weight what tiny-cuda-nn computes, smooth where
asked, and its parameters exchangeable.
"""

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worlds import oblique_grid

from inrreg.core.errors import InputError, TransformError
from inrreg.core.grid import Cube
from inrreg.fields import HashGrid, tinycuda
from inrreg.fields.hashgrid import HashEncoding, library_config
from inrreg.transforms import Neural, NeuralModel, load_transform, save_transform

SETTINGS = {"levels": 6, "features": 2, "base_resolution": 4, "growth": 1.5, "log2_size": 8}
"""In 3-D the first two levels (4^3 and 6^3 vertices) are dense, the others hashed."""


@pytest.fixture(params=[2, 3], ids=["2-D", "3-D"])
def ndim(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["linear", "smoothstep"])
def interpolation(request: pytest.FixtureRequest) -> str:
    return request.param


def encoding(ndim: int, interpolation: str, **changes: int | float) -> HashEncoding:
    made = HashEncoding(
        ndim,
        interpolation=interpolation,
        generator=torch.Generator().manual_seed(0),
        **(SETTINGS | changes),
    )
    with torch.no_grad():
        made.params.copy_(
            torch.randn(made.params.shape, generator=torch.Generator().manual_seed(1))
        )
    return made


def by_hand(
    params: np.ndarray, x: np.ndarray, settings: dict[str, Any], interpolation: str
) -> list[float]:
    """The features of one point: the kernel of the library, one number at a time, in words of 32
    bits.
    """
    word, features, result, offset = 2**32, settings["features"], [], 0
    for level in range(settings["levels"]):
        scale = np.float32(
            2.0 ** (level * math.log2(settings["growth"])) * settings["base_resolution"] - 1.0
        )
        resolution = math.ceil(scale) + 1
        size = min((resolution ** len(x) + 7) // 8 * 8, 2 ** settings["log2_size"])
        position = [float(scale) * float(v) + 0.5 for v in x]
        cell, weight = [math.floor(p) for p in position], [p - math.floor(p) for p in position]
        if interpolation == "smoothstep":
            weight = [w * w * (3.0 - 2.0 * w) for w in weight]
        sums = [0.0] * features
        for corner in range(2 ** len(x)):
            share, stride, index, local = 1.0, 1, 0, []
            for dim in range(len(x)):
                bit = corner >> dim & 1
                share *= weight[dim] if bit else 1 - weight[dim]
                local.append((cell[dim] + bit) % word)
            for at in local:
                if stride <= size:
                    index, stride = (index + at * stride) % word, stride * resolution
            if size < stride:
                index = 0
                for at, prime in zip(local, (1, 2654435761, 805459861), strict=False):
                    index ^= at * prime % word
            for f in range(features):
                sums[f] += share * float(params[(offset + index % size) * features + f])
        offset += size
        result += sums
    assert offset * features == len(params)
    return result


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"features": 4, "growth": 2.0, "base_resolution": 16, "log2_size": 12, "levels": 3},
        {"growth": 1.26, "levels": 8},
    ],
    ids=str,
)
def test_it_is_the_librarys_kernel(ndim: int, interpolation: str, changes: dict[str, Any]) -> None:
    made = encoding(ndim, interpolation, **changes)
    assert {level.hashed for level in encoding(3, interpolation, **changes).levels} == {True, False}
    points = torch.rand(40, ndim, generator=torch.Generator().manual_seed(2))
    # both ends, and one beyond: there the words wrap
    points[:3] = torch.tensor([0.0, 1.0, -0.3]).view(3, 1).expand(3, ndim)
    found = made(points)
    expected = torch.tensor(
        [
            by_hand(made.params.detach().numpy(), point.numpy(), SETTINGS | changes, interpolation)
            for point in points
        ]
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_its_parameters_are_laid_out_as_documented() -> None:
    """Level by level, padded to 8 rows, the features of a row side by side."""
    made = encoding(3, "linear")
    # ceil(4 * 1.5^l - 1) + 1
    assert [level.resolution for level in made.levels] == [4, 6, 9, 14, 21, 31]
    assert [level.size for level in made.levels] == [64, 216, 256, 256, 256, 256]
    assert [level.offset for level in made.levels] == [0, 64, 280, 536, 792, 1048]
    assert made.params.shape == (1304 * 2,)
    assert encoding(2, "linear", base_resolution=5).levels[0].size == 32  # 25 vertices


def test_a_vertex_reads_its_own_row() -> None:
    made = encoding(3, "linear")
    x = (torch.tensor([[1.0, 2.0, 3.0]]) - 0.5) / made.levels[0].scale
    torch.testing.assert_close(
        made(x)[0, :2], made.params.detach().view(-1, 2)[1 + 4 * 2 + 16 * 3], rtol=0, atol=1e-5
    )


def test_the_derivatives_are_those_of_the_values(ndim: int, interpolation: str) -> None:
    made = encoding(ndim, interpolation).double()
    points = torch.rand(20, ndim, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values, slopes = made.dual(points).result()
    torch.testing.assert_close(values, made(points))
    for i, point in enumerate(points):
        torch.testing.assert_close(slopes[i], torch.autograd.functional.jacobian(made, point))


def test_smoothstep_is_smooth_at_the_vertices_and_linear_is_not() -> None:
    """Slopes just before and just after a plane of vertices of the first level, where no other
    level has any.
    """

    def jump(interpolation: str) -> float:
        made = encoding(3, interpolation, levels=1).double()
        # at vertex 1 along the first axis
        x = torch.tensor([[0.5 / 3, 0.4, 0.7]], dtype=torch.float64)
        before, after = (
            made.dual(x + torch.tensor([[e, 0, 0]])).tangents[0] for e in (-1e-7, 1e-7)
        )
        return float((before - after).detach().abs().max())

    assert jump("linear") > 0.1
    assert jump("smoothstep") < 1e-4


def test_second_derivatives_by_interpolation(ndim: int) -> None:
    """Pure ones exist with smoothstep weights only; linear ones leave the mixed ones."""

    def pure(interpolation: str) -> Tensor:
        made = encoding(ndim, interpolation).double()
        points = torch.rand(
            10, ndim, generator=torch.Generator().manual_seed(4), dtype=torch.float64
        ).requires_grad_()
        slope = made.dual(points).tangents[0].sum()
        return torch.autograd.grad(slope, points)[0][:, 0].abs()

    assert pure("linear").max() == 0
    assert pure("smoothstep").min() > 1e-3


def test_a_hash_grid_learns_detail() -> None:
    """A wave of a tenth of the cube, fitted from samples, holds at other points too."""
    field = HashGrid(
        2, 1, levels=8, base_resolution=4, growth=1.4, generator=torch.Generator().manual_seed(0)
    )
    adam = torch.optim.Adam(field.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(1)

    def loss() -> Tensor:
        points = 2 * torch.rand(2000, 2, generator=generator) - 1
        return (
            (field(points)[:, 0] - torch.sin(30 * points[:, 0]) * torch.cos(20 * points[:, 1]))
            .square()
            .mean()
        )

    for _ in range(150):
        adam.zero_grad()
        value = loss()
        value.backward()
        adam.step()
    assert float(loss().detach()) < 0.02  # of 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 3}, "1, 2, 4 or 8 features a level"),
        ({"interpolation": "cubic"}, "linear or smoothstep weights"),
        ({"backend": "cuda"}, "runs on backend 'torch'"),
        ({"precision": "float16"}, "in float32, or on 'tinycudann'"),
    ],
)
def test_what_the_library_does_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HashGrid(3, 3, **options)


# --- the library itself ---------------------------------------------------------------------------


def test_parity_with_the_library(ndim: int, interpolation: str) -> None:
    """Values, Jacobian and the gradient of the parameters, with the same parameters in both."""
    found, reason = tinycuda.usable()
    if not found:
        pytest.skip(f"tinycudann is {reason}")
    fields = [
        HashGrid(
            ndim,
            2,
            **SETTINGS,
            interpolation=interpolation,
            backend=backend,
            generator=torch.Generator().manual_seed(0),
        ).cuda()
        for backend in ("torch", "tinycudann")
    ]
    weights = {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
        for name, value in fields[0].state_dict().items()
    }
    points = (2 * torch.rand(300, ndim, generator=torch.Generator().manual_seed(6)) - 1).cuda()
    answers = []
    for field in fields:
        field.load_state_dict(weights)
        values, slopes = field.value_and_jacobian(points)
        (values.square().mean() + slopes.square().mean()).backward()
        answers.append((values, slopes, field.get_parameter("encoding.params").grad))
    for a, b in zip(*answers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.detach().abs().max()))


def test_the_library_is_refused_with_the_reason_where_it_is_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tinycuda, "find_spec", lambda name: None)
    assert tinycuda.usable()[0] is False
    with pytest.raises(
        TransformError,
        match=(
            r"backend='tinycudann' was asked for, but tinycudann is not installed; build its"
            r" PyTorch extension .*; or take backend='torch'"
        ),
    ):
        HashGrid(3, 3, backend="tinycudann")
    monkeypatch.setattr(tinycuda, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TransformError, match="installed, but it needs a CUDA device"):
        HashGrid(3, 3, backend="tinycudann")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(TransformError, match="installed, but it does not load"):
        HashGrid(3, 3, backend="tinycudann")


class Standin(nn.Module):
    """What the library's ``Encoding`` looks like from Python, computed by the torch encoding; it
    takes the names of the library's documentation.
    """

    made: dict[str, Any]

    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.dtype, c = dtype, encoding_config
        assert c["otype"] == "HashGrid"
        self._torch = (
            HashEncoding(
                n_input_dims,
                c["n_levels"],
                c["n_features_per_level"],
                c["base_resolution"],
                c["per_level_scale"],
                c["log2_hashmap_size"],
                c["interpolation"].lower(),
            ),
        )
        self.params = nn.Parameter(torch.zeros_like(self._torch[0].params))

    def forward(self, points: Tensor) -> Tensor:
        assert points.ndim == 2
        self._torch[0].params = self.params
        return self._torch[0](points).to(self.dtype)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the library, on whatever device there is: what is tested is all that lies
    around its kernels.
    """
    monkeypatch.setattr(tinycuda, "usable", lambda: (True, "found"))
    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Standin))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_parameters_pass_from_one_backend_to_the_other(
    ndim: int, interpolation: str, precision: str, library: None
) -> None:
    ours = HashGrid(
        ndim, 2, **SETTINGS, interpolation=interpolation, generator=torch.Generator().manual_seed(0)
    )
    theirs = HashGrid(
        ndim,
        2,
        **SETTINGS,
        interpolation=interpolation,
        backend="tinycudann",
        precision=precision,
        generator=torch.Generator().manual_seed(0),
    )
    # the generator gives both the same start
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    )
    weights = {
        name: 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5))
        for name, value in ours.state_dict().items()
    }
    points = 2 * torch.rand(3, 5, ndim, generator=torch.Generator().manual_seed(6)) - 1
    answers = []
    for field in (ours, theirs):
        field.load_state_dict(weights, assign=field is theirs)
        for parameter in field.parameters():
            parameter.requires_grad_()
        values, slopes = field.value_and_jacobian(points)
        (values.square().mean() + slopes.square().mean()).backward()
        answers.append((values, slopes, field.get_parameter("encoding.params").grad))
    for a, b in zip(*answers, strict=True):
        assert a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(
            a,
            b,
            rtol=0,
            atol=(1e-4 if precision == "float32" else 2e-2) * float(a.detach().abs().max()),
        )


def test_the_configuration_is_in_the_librarys_words() -> None:
    assert library_config(encoding(3, "smoothstep"), 4, 1.5, 8) == {
        "otype": "HashGrid",
        "n_levels": 6,
        "n_features_per_level": 2,
        "log2_hashmap_size": 8,
        "base_resolution": 4,
        "per_level_scale": 1.5,
        "interpolation": "Smoothstep",
    }


def test_what_the_library_fitted_is_saved_for_any_machine(
    library: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    grid = oblique_grid(3)
    neural = NeuralModel("hashgrid", {**SETTINGS, "backend": "tinycudann"}, 3.0).build(
        grid, torch.Generator().manual_seed(0)
    )
    assert isinstance(neural, Neural)
    with torch.no_grad():
        neural.network.perceptron.output.weight.normal_(
            0, 0.3, generator=torch.Generator().manual_seed(1)
        )
    save_transform(neural, tmp_path)
    expected = neural.displacement_on(grid)
    assert expected.abs().max() > 0.1
    monkeypatch.setattr(tinycuda, "usable", lambda: (False, "not installed"))
    loaded = load_transform(tmp_path)
    torch.testing.assert_close(loaded.displacement_on(grid), expected, rtol=0, atol=1e-5)


def test_another_layout_is_refused(library: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Standin):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.params = nn.Parameter(torch.zeros(8))

    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Other))
    with pytest.raises(
        TransformError, match=r"lays out \(8,\) parameters .* a version that is not known here"
    ):
        HashGrid(3, 3, **SETTINGS, backend="tinycudann")


def test_the_library_takes_points_on_its_device_only(
    library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = HashGrid(3, 3, **SETTINGS, backend="tinycudann")
    monkeypatch.setattr(torch.Tensor, "is_cuda", False)
    with pytest.raises(TransformError, match="computes on CUDA devices only"):
        field(torch.zeros(4, 3))


def test_neural_asks_the_hash_grid_within_its_cube() -> None:
    """Cube coordinates -1 ... 1 are the unit cube 0 ... 1 of the encoding."""
    grid = oblique_grid(3)
    field = HashGrid(3, 3, **SETTINGS)
    seen: list[Tensor] = []
    field.encoding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    Neural(field, Cube.around(grid)).displacement(grid.points())
    assert seen[0].min() >= 0
    assert seen[0].max() <= 1
    assert seen[0].amin() < 0.2 < 0.8 < seen[0].amax()
