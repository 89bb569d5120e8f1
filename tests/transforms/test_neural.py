"""Networks as transforms: the Jacobian in mm that comes with the values, bandwidth raised level by
level, every named field saved and fitted.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from worlds import between_voxels

from inrreg.core.errors import TransformError
from inrreg.core.grid import Cube, Grid
from inrreg.core.image_pair import ImagePair
from inrreg.fields import FIELDS, CoarseFine, Siren
from inrreg.objective.samplers import RandomPoints, WholeGrid
from inrreg.optimisation import Adam
from inrreg.optimisation.stage_result import Record
from inrreg.penalties import Bending, Folding
from inrreg.phantoms import blob_pair
from inrreg.presets import preset
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import Neural, NeuralModel, Render, Transform, load_transform, save_transform

OPTIONS: dict[str, dict[str, Any]] = {
    "siren": {"width": 32, "depth": 2, "omega": 5.0, "omega_hidden": 10.0},
    "fourier": {"width": 32, "depth": 1, "frequencies": 16, "spread": 0.5},
    "mlp": {"width": 32, "depth": 2},
    "coarse_fine": {
        "width": 32,
        "depth": 2,
        "omega_coarse": 5.0,
        "omega_fine": 20.0,
        "omega_hidden": 10.0,
    },
    "hashgrid": {"levels": 4, "growth": 1.4, "width": 32, "depth": 1},
    "nephi": {
        "width": 32,
        "depth": 2,
        "whole_codes": 8,
        "local_codes": 8,
        "lattice": 4,
        "frequencies": 16,
        "spread": 0.3,
    },
}
each = pytest.mark.parametrize("name", OPTIONS)


def moved(name: str, grid: Grid, lattice_mm: float | None = None) -> Transform:
    """A field of that name with a motion of a few mm, in double precision."""
    generator = torch.Generator().manual_seed(3)
    transform = NeuralModel(name, OPTIONS[name], 4.0, lattice_mm).build(grid, generator)
    with torch.no_grad():
        for parameter in transform.parameters():
            if parameter.abs().max() < 1e-3:  # outputs, and the features of a hash grid
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return transform.double()


def test_every_named_field_is_tried_here() -> None:
    assert set(OPTIONS) == set(FIELDS)


@each
def test_the_jacobian_is_in_mm_per_mm(name: str, grid: Grid, generator: torch.Generator) -> None:
    """Central differences of the map itself, on the oblique grid."""
    transform, x = moved(name, grid), between_voxels(grid, 12, generator)
    step = 1e-5 * torch.eye(grid.ndim, dtype=torch.float64)
    expected = torch.stack([(transform(x + h) - transform(x - h)) / 2e-5 for h in step], -1)
    torch.testing.assert_close(transform.jacobian(x), expected, rtol=1e-4, atol=1e-6)
    assert (expected - torch.eye(grid.ndim)).abs().max() > 0.01


@each
def test_single_points_keep_their_precision_and_device(
    name: str, grid: Grid, device: torch.device
) -> None:
    transform, points = moved(name, grid).float().to(device), grid.points(torch.float64, device)[0]
    assert transform.jacobian(points).dtype == torch.float64
    assert transform.jacobian(points).device.type == device.type
    assert transform.displacement(points.float()).dtype == torch.float32


@each
@pytest.mark.parametrize("lattice_mm", [None, 6.0])
def test_it_comes_back_from_its_files(
    name: str, lattice_mm: float | None, grid: Grid, tmp_path: Path
) -> None:
    transform = moved(name, grid, lattice_mm)
    if name == "coarse_fine":
        transform.refine(5.0)
    save_transform(transform, tmp_path)
    assert torch.equal(
        load_transform(tmp_path).displacement_on(grid), transform.displacement_on(grid)
    )


@each
def test_it_finds_a_known_motion(name: str) -> None:
    phantom = blob_pair((40, 36), spacing=(2.0, 2.4), shift_mm=5.0, n_blobs=60, seed=1)
    rate = 3e-2 if name == "hashgrid" else 4e-3
    registration = Registration(
        NeuralModel(name, OPTIONS[name], lattice_mm=12.0),
        (MSE(30.0),),
        (Bending(0.3),),
        Adam(rate),
        (Scale(8, 50), Scale(4, 50, 8.0)),
        mask_margin_mm=8.0,
    )
    found = registration.run(ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask)).transform
    x = phantom.fixed.grid.points(torch.float64)[phantom.fixed_mask.data[0] > 0]
    with torch.no_grad():
        target = phantom.truth(x)
        # measured: 0.12 to 0.26
        assert (
            float((found(x) - target).norm(dim=-1).mean() / (x - target).norm(dim=-1).mean()) < 0.35
        )


@pytest.mark.parametrize("lattice_mm", [None, 6.0])
def test_a_drawn_map_is_the_same_and_hands_its_gradient_on(
    lattice_mm: float | None, grid: Grid, generator: torch.Generator
) -> None:
    transform, x = moved("siren", grid, lattice_mm), between_voxels(grid, 9, generator)

    def gradients(of: Transform) -> list[Tensor]:
        cost = (
            of.displacement_on(grid).square().mean()
            + of.jacobian_on(grid).square().mean()
            + of(x).mean()
            + of.jacobian(x).square().mean()
        )
        return list(torch.autograd.grad(cost, list(transform.parameters())))

    materialised = transform.materialised()
    assert torch.equal(materialised.displacement_on(grid), transform.displacement_on(grid))
    for found, expected in zip(gradients(materialised), gradients(transform), strict=True):
        # what is rendered on grids is so in single precision
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_step_asks_a_rendered_network_once() -> None:
    phantom = blob_pair((32, 28), spacing=(2.0, 2.4), shift_mm=5.0, n_blobs=60, seed=1)
    transform, asked = (
        NeuralModel(options=OPTIONS["siren"], lattice_mm=12.0).build(
            phantom.fixed.grid, torch.Generator().manual_seed(0)
        ),
        [],
    )
    assert isinstance(transform, Render)
    transform.inner.get_submodule("network").register_forward_hook(lambda *_: asked.append(1))
    Registration(
        transform,
        (MSE(),),
        (Bending(), Folding()),
        Adam(1e-3),
        (Scale(4, 5),),
        penalty_sampler=WholeGrid(8.0),
    ).run(ImagePair(phantom.fixed, phantom.moving))
    assert len(asked) == 5


# --- annealing ------------------------------------------------------------------------------------


def window(transform: Transform) -> Tensor:
    inner = transform.inner if isinstance(transform, Render) else transform
    assert isinstance(inner, Neural)
    assert isinstance(inner.network, CoarseFine)
    return inner.network.window()


def test_refining_opens_an_annealed_field_to_what_the_lattice_can_render(grid: Grid) -> None:
    """Waves of four knots and more."""
    transform = moved("coarse_fine", grid)
    assert (window(transform) == 1).all()
    half_width = Cube.around(grid).half_width
    for spacing in (5.0, 2.0, 0.01):
        transform.refine(spacing)
        fine = transform.network.fine  # type: ignore[union-attr]
        wavelength_mm = half_width * 2 * torch.pi / (20.0 * fine.layers[0].weight.norm(dim=1))
        assert (window(transform)[wavelength_mm >= 4 * spacing] == 1).all()
        assert (window(transform)[wavelength_mm <= 2 * spacing] == 0).all()


def test_a_rendered_field_begins_as_coarse_as_its_lattice_and_opens_with_it(grid: Grid) -> None:
    transform = moved("coarse_fine", grid, lattice_mm=5.0)
    first = window(transform).mean()
    transform.refine(2.0)
    assert first < window(transform).mean()
    apart = moved("coarse_fine", grid)
    apart.refine(2.0)
    assert torch.equal(window(apart), window(transform))


def test_the_levels_of_a_registration_raise_the_bandwidth() -> None:
    phantom = blob_pair((32, 28), spacing=(2.0, 2.4), shift_mm=5.0, n_blobs=60, seed=1)
    pair, shares = ImagePair(phantom.fixed, phantom.moving), []
    transform = NeuralModel("coarse_fine", OPTIONS["coarse_fine"], lattice_mm=24.0).build(
        phantom.fixed.grid, torch.Generator().manual_seed(0)
    )

    def watch(record: Record) -> None:
        shares.append(float(window(transform).mean()))

    registration = Registration(
        transform,
        (MSE(),),
        optimiser=Adam(1e-3),
        scales=(Scale(8, 2), Scale(8, 2, 12.0), Scale(4, 2, 4.0)),
    )
    registration.fit(transform, pair, None, torch.Generator().manual_seed(0), watch)
    assert shares[0] < shares[2] < shares[4]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)  # moved only as far as the weights did


def test_the_published_configuration_is_a_preset(grid: Grid) -> None:
    chosen = preset("idir").stages[-1]
    assert isinstance(chosen, Registration)
    assert isinstance(chosen.transform, NeuralModel)
    built = chosen.transform.build(grid, torch.Generator().manual_seed(0))
    assert isinstance(built, Neural)
    assert [tuple(p.shape) for name, p in built.named_parameters() if name.endswith("weight")] == [
        (256, grid.ndim),
        (256, 256),
        (256, 256),
        (grid.ndim, 256),
    ]
    assert (chosen.sampler, chosen.scales[-1].iterations) == (RandomPoints(10_000), 2500)
    assert [term.name for term in (*chosen.similarities, *chosen.penalties)] == [
        "ncc",
        "log_jacobian",
    ]


def test_the_published_configuration_registers() -> None:
    """On a small pair, with fewer points and steps."""
    phantom = blob_pair((32, 28), spacing=(2.0, 2.4), shift_mm=5.0, n_blobs=60, seed=1)
    chosen = preset("idir").stages[-1]
    assert isinstance(chosen, Registration)
    chosen = replace(
        chosen,
        sampler=RandomPoints(600),
        penalty_sampler=RandomPoints(200),
        scales=(Scale(1, 150),),
    )
    found = chosen.run(ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask)).transform
    x = phantom.fixed.grid.points(torch.float64)[phantom.fixed_mask.data[0] > 0]
    with torch.no_grad():
        target = phantom.truth(x)
        assert (
            float((found(x) - target).norm(dim=-1).mean() / (x - target).norm(dim=-1).mean()) < 0.5
        )


def test_a_field_without_a_bandwidth_says_so(grid: Grid) -> None:
    with pytest.raises(
        TransformError,
        match=(
            r"no lattice to refine to 3.0 mm, and Siren no bandwidth to raise; leave"
            r" `control_spacing` out"
        ),
    ):
        Neural(Siren(grid.ndim, grid.ndim), Cube.around(grid)).refine(3.0)
