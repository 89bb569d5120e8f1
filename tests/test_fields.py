"""Coordinate networks: what every field promises, and the SIREN in particular."""

import math

import pytest
import torch
from torch import Tensor, nn

from inrreg.fields import FIELDS, Siren


@pytest.fixture(params=FIELDS)
def field_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[2, 3], ids=["2-D", "3-D"])
def ndim(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def coordinates(ndim: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand(24, ndim, generator=generator) - 1


def awake(network: nn.Module) -> nn.Module:
    """With an output layer that lets the hidden layers be seen."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


# --- every field ----------------------------------------------------------------------------------------------------


def test_it_starts_at_zero(field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator) -> None:
    values = FIELDS[field_name](ndim=ndim, outputs=2, generator=generator)(coordinates)
    assert values.shape == (24, 2)
    assert not values.any()


def test_its_weights_come_from_the_generator(field_name: str, ndim: int) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return FIELDS[field_name](ndim=ndim, outputs=ndim, generator=torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_batch_is_each_point(field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator) -> None:
    network = awake(FIELDS[field_name](ndim=ndim, outputs=ndim, generator=generator))
    looped = torch.cat([network(point[None]) for point in coordinates])
    torch.testing.assert_close(network(coordinates), looped, rtol=0, atol=1e-5)
    assert looped.abs().max() > 1e-4


def test_every_parameter_can_be_trained(field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator) -> None:
    network = awake(FIELDS[field_name](ndim=ndim, outputs=ndim, generator=generator))
    network(coordinates).square().sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_it_runs_on_the_device(field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator, device: torch.device) -> None:
    network = awake(FIELDS[field_name](ndim=ndim, outputs=ndim, generator=generator))
    expected = network(coordinates)
    torch.testing.assert_close(network.to(device)(coordinates.to(device)).cpu(), expected, rtol=0, atol=1e-4)


# --- SIREN ----------------------------------------------------------------------------------------------------------


def test_siren_is_its_formula(coordinates: Tensor, ndim: int, generator: torch.Generator) -> None:
    siren = awake(Siren(ndim, 3, width=8, depth=3, omega=7.0, omega_hidden=5.0, generator=generator))
    hidden = coordinates
    for omega, layer in zip((7.0, 5.0, 5.0), siren.layers, strict=True):
        hidden = torch.sin(omega * (hidden @ layer.weight.T + layer.bias))
    torch.testing.assert_close(siren(coordinates), hidden @ siren.output.weight.T + siren.output.bias)


def test_siren_weights_are_spread_as_in_the_paper(ndim: int, generator: torch.Generator) -> None:
    siren = Siren(ndim, ndim, width=256, depth=3, omega_hidden=30.0, generator=generator)
    for layer, bound in zip(siren.layers, (1 / ndim, math.sqrt(6 / 256) / 30, math.sqrt(6 / 256) / 30), strict=True):
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)  # of a uniform distribution; 512 draws or more


def test_siren_activations_keep_their_spread_through_the_layers(generator: torch.Generator) -> None:
    siren = Siren(3, 3, width=256, depth=5, generator=generator)
    hidden = 2 * torch.rand(2000, 3, generator=generator) - 1
    for omega, layer in zip(siren.omegas, siren.layers, strict=True):
        hidden = torch.sin(omega * layer(hidden))
        assert 0.5 < hidden.std() < 0.8  # the arcsine distribution of the paper has 1 / sqrt(2)


def test_siren_can_be_differentiated_twice(coordinates: Tensor, ndim: int, generator: torch.Generator) -> None:
    siren = awake(Siren(ndim, 2, width=6, depth=2, omega=3.0, omega_hidden=3.0, generator=generator)).double()
    few = coordinates[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(siren, few)
    assert torch.autograd.gradgradcheck(siren, few)


def test_siren_takes_sites_of_any_shape(coordinates: Tensor, ndim: int, generator: torch.Generator) -> None:
    siren = awake(Siren(ndim, 2, width=8, generator=generator))
    torch.testing.assert_close(siren(coordinates.reshape(2, 3, 4, ndim)).reshape(24, 2), siren(coordinates))
