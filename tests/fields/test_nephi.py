"""NePhi: codes read as B-splines, gates as in the formula, two ways from one set of codes, and a
motion found together with its inverse.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from worlds import between_voxels

from inrreg.core.errors import InputError, TransformError
from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.fields import NePhi, Siren
from inrreg.fields.nephi import Codes, Decoded
from inrreg.objective.samplers import RandomPoints
from inrreg.ops.sampling import spatial_gradient, spline_combination
from inrreg.optimisation import Adam
from inrreg.penalties import GradICON, InverseConsistency
from inrreg.phantoms import blob_pair
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import Neural, NeuralModel, Transform, load_transform, save_transform

SMALL = {
    "width": 32,
    "depth": 2,
    "whole_codes": 8,
    "local_codes": 8,
    "lattice": 4,
    "frequencies": 16,
}


@pytest.fixture(params=[2, 3], ids=["2-D", "3-D"])
def ndim(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def coordinates(ndim: int, generator: torch.Generator) -> Tensor:
    """In the cube and, one in three or more, a little outside."""
    points = 2.4 * torch.rand(40, ndim, generator=generator, dtype=torch.float64) - 1.2
    assert 10 < int((points.abs() > 1).any(-1).sum()) < 30
    return points


def awake(ndim: int, seed: int = 0, **changes: int | float) -> NePhi:
    """With codes and outputs that are not zero, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    network = NePhi(ndim, ndim, generator=generator, **(SMALL | changes))
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.double()


def moved(grid: Grid) -> Neural:
    return Neural(awake(grid.ndim), Cube.around(grid), 4.0, "nephi", dict(SMALL))


# --- codes and gates ------------------------------------------------------------------------------


def test_local_codes_are_a_spline_over_the_cube(
    ndim: int, coordinates: Tensor, generator: torch.Generator
) -> None:
    """Values and slopes as the sampler of images gives them, inside and outside."""
    shape = (6, 4, 5)[:ndim]
    whole, local = (
        torch.randn(3, generator=generator).double(),
        torch.randn(2, *shape, generator=generator).double(),
    )
    lattice = Grid.from_spacing(shape, [2 / (n - 1) for n in shape], [-1.0] * ndim)
    value, tangents = Codes(whole, local).dual(coordinates)
    torch.testing.assert_close(Codes(whole, local).at(coordinates), value)
    torch.testing.assert_close(value[:, :3], whole.expand(40, 3))
    torch.testing.assert_close(
        value[:, 3:], spline_combination(Image(local, lattice, "codes"), coordinates).T
    )
    assert not tangents[..., :3].any()
    torch.testing.assert_close(
        tangents[..., 3:], spatial_gradient(local, lattice, coordinates, 3).permute(2, 1, 0)
    )


def test_a_local_code_acts_around_its_place_only(ndim: int, coordinates: Tensor) -> None:
    network = awake(ndim, lattice=6)
    before = network(coordinates)
    with torch.no_grad():
        network.local.view(8, -1)[:, 0] += 1  # of the corner -1 ... -1
    changed = (network(coordinates) - before).abs().amax(-1) > 0
    reach = (coordinates < -1 + 2 * 2 / 5).all(-1)  # the spline of a knot ends two knots further on
    assert torch.equal(changed, reach)
    assert changed.any()


def test_it_is_its_formula(ndim: int, coordinates: Tensor) -> None:
    network = awake(ndim, depth=3, omega=4.0)
    for decoder, field in ((network.there, network), (network.back, network.fitted_inverse())):
        phase = coordinates @ decoder.matrix.T
        hidden = torch.cat([phase.sin(), phase.cos()], -1)
        gate = torch.cat([network.codes.at(coordinates), hidden], -1)
        for layer, gate_layer in zip(decoder.layers, decoder.gates, strict=True):
            gate = torch.sin(4.0 * (gate @ gate_layer.weight.T + gate_layer.bias))
            hidden = torch.sin(4.0 * (hidden @ layer.weight.T + layer.bias)) * gate
        torch.testing.assert_close(
            field(coordinates), hidden @ decoder.output.weight.T + decoder.output.bias
        )


def test_the_jacobian_of_both_ways_is_that_of_autograd(ndim: int, coordinates: Tensor) -> None:
    network = awake(ndim)
    for field in (network, network.fitted_inverse()):
        values, slopes = field.value_and_jacobian(coordinates)
        torch.testing.assert_close(values, field(coordinates))
        torch.testing.assert_close(
            slopes, torch.stack([jacobian(field, point) for point in coordinates])
        )
        assert slopes.abs().max() > 0.1


def test_both_ways_share_their_codes_and_nothing_else(ndim: int, coordinates: Tensor) -> None:
    network = awake(ndim)
    there = torch.autograd.grad(
        network(coordinates).square().sum(), list(network.parameters()), allow_unused=True
    )
    back = torch.autograd.grad(
        network.fitted_inverse()(coordinates).square().sum(),
        list(network.parameters()),
        allow_unused=True,
    )
    both = {
        name
        for (name, _), a, b in zip(network.named_parameters(), there, back, strict=True)
        if a is not None and b is not None
    }
    assert both == {"whole", "local"}


def test_a_decoder_takes_codes_that_were_predicted(ndim: int, coordinates: Tensor) -> None:
    """What an encoder puts out, and the gradient goes back to it."""
    network, source = awake(ndim), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    codes = Codes(source * network.whole.detach(), source * network.local.detach())
    assert torch.autograd.gradcheck(
        lambda s: Decoded(
            network.there, Codes(s * network.whole.detach(), s * network.local.detach())
        )(coordinates),
        source,
    )
    Decoded(network.there, codes)(coordinates).square().sum().backward()
    assert source.grad is not None
    assert source.grad.abs() > 1e-4


def test_too_small_a_lattice_is_refused() -> None:
    with pytest.raises(
        InputError,
        match=(
            "2 local codes an axis or more, and a number in the whole code and in each local one;"
            " got 1, 32 and 32"
        ),
    ):
        NePhi(3, 3, lattice=1)
    with pytest.raises(InputError, match="got 6, 32 and 0"):
        NePhi(3, 3, local_codes=0)


# --- as a transform -------------------------------------------------------------------------------


def test_both_ways_start_as_the_identity(
    grid: Grid, device: torch.device, generator: torch.Generator
) -> None:
    transform = NeuralModel("nephi").build(grid, generator).to(device)
    points = grid.points(device=device)
    for way in (transform, transform.fitted_inverse()):
        assert torch.equal(way(points), points)
        assert torch.equal(
            way.jacobian(points), torch.eye(grid.ndim, device=device).expand(*grid.shape, -1, -1)
        )


def test_the_way_back_is_in_mm_too(grid: Grid, generator: torch.Generator) -> None:
    transform, x = moved(grid), between_voxels(grid, 12, generator)
    back = transform.fitted_inverse()
    torch.testing.assert_close(
        back.displacement(x), 4.0 * awake(grid.ndim).fitted_inverse()(transform.cube.to_unit(x))
    )
    step = 1e-5 * torch.eye(grid.ndim, dtype=torch.float64)
    expected = torch.stack([(back(x + h) - back(x - h)) / 2e-5 for h in step], -1)
    torch.testing.assert_close(back.jacobian(x), expected, rtol=1e-4, atol=1e-6)
    assert (expected - torch.eye(grid.ndim)).abs().max() > 0.01


def test_both_ways_come_back_from_the_files(grid: Grid, tmp_path: Path) -> None:
    transform = moved(grid)
    save_transform(transform, tmp_path)
    loaded, points = load_transform(tmp_path), grid.points(torch.float64)
    assert torch.equal(loaded(points), transform(points))
    assert torch.equal(loaded.fitted_inverse()(points), transform.fitted_inverse()(points))
    assert not torch.equal(loaded(points), loaded.fitted_inverse()(points))


def test_a_field_of_one_way_says_so(grid: Grid) -> None:
    with pytest.raises(
        TransformError,
        match=(
            r"Neural has no map for the way back beside it; fit one that has,"
            r" NeuralModel\('nephi'\) without `lattice_mm`, or ask for inverse\(\)"
        ),
    ):
        Neural(Siren(grid.ndim, grid.ndim), Cube.around(grid)).fitted_inverse()


# --- found ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found() -> tuple[Transform, Tensor, Tensor]:
    """A fit of a 3-D pair that moves by about 6 mm; points of its mask, and where they truly
    lie.
    """
    phantom = blob_pair((24, 22, 20), spacing=(3.0, 3.4, 4.0), shift_mm=6.0, n_blobs=120, seed=1)
    registration = Registration(
        NeuralModel("nephi", SMALL),
        (MSE(30.0),),
        (InverseConsistency(0.03), GradICON()),
        Adam(4e-3),
        (Scale(8, 100), Scale(4, 100)),
        RandomPoints(800),
        RandomPoints(200),
        mask_margin_mm=8.0,
    )
    transform = registration.run(
        ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask)
    ).transform
    x = phantom.fixed.grid.points(torch.float64)[phantom.fixed_mask.data[0] > 0]
    return transform, x, phantom.truth(x)


def test_it_finds_a_known_motion_and_its_inverse(found: tuple[Transform, Tensor, Tensor]) -> None:
    transform, x, target = found
    assert (target - x).norm(dim=-1).mean() > 5.5
    assert (transform(x) - target).norm(dim=-1).mean() < 0.9  # measured: 0.55
    back = transform.fitted_inverse()
    assert (back(transform(x)) - x).norm(dim=-1).mean() < 0.3  # measured: 0.15
    assert (back(target) - x).norm(dim=-1).mean() < 0.9  # measured: 0.55
    assert torch.linalg.det(transform.jacobian(x)).min() > 0.6  # measured: 0.89


def test_the_way_back_is_near_the_inverse_that_is_solved_for(
    found: tuple[Transform, Tensor, Tensor],
) -> None:
    transform, _, target = found
    few = target[::50]
    # measured: 0.15
    assert (transform.fitted_inverse()(few) - transform.inverse()(few)).norm(dim=-1).mean() < 0.3
