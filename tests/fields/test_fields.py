"""Coordinate networks: what every field promises, and what each of them is.

The hash grid has a file of its own.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from inrreg.core.errors import InputError
from inrreg.fields import (
    FIELDS,
    Annealed,
    CoarseFine,
    Field,
    FourierPerceptron,
    Perceptron,
    Siren,
    TwoWay,
    value_and_jacobian,
)
from inrreg.fields.tangents import ACTIVATIONS, Activation, Sine, forward_mode, reverse_mode


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


# --- every field ----------------------------------------------------------------------------------


def test_it_starts_at_zero(
    field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator
) -> None:
    field = FIELDS[field_name](ndim=ndim, outputs=2, generator=generator)
    values, slopes = field.value_and_jacobian(coordinates)
    assert values.shape == (24, 2)
    assert slopes.shape == (24, 2, ndim)
    assert not field(coordinates).any()
    assert not values.any()
    assert not slopes.any()


def test_its_weights_come_from_the_generator(field_name: str, ndim: int) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return FIELDS[field_name](
            ndim=ndim, outputs=ndim, generator=torch.Generator().manual_seed(seed)
        ).state_dict()

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_batch_is_each_point(
    field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator
) -> None:
    network = awake(FIELDS[field_name](ndim=ndim, outputs=ndim, generator=generator))
    looped = torch.cat([network(point[None]) for point in coordinates])
    torch.testing.assert_close(network(coordinates), looped, rtol=0, atol=1e-5)
    assert looped.abs().max() > 1e-4


def test_every_parameter_can_be_trained(
    field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator
) -> None:
    network = awake(FIELDS[field_name](ndim=ndim, outputs=ndim, generator=generator))
    values = network(coordinates).square().sum() + (
        network.fitted_inverse()(coordinates).square().sum() if isinstance(network, TwoWay) else 0
    )
    values.backward()
    assert {
        name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()
    } == set()


def test_it_runs_on_the_device(
    field_name: str,
    ndim: int,
    coordinates: Tensor,
    generator: torch.Generator,
    device: torch.device,
) -> None:
    network = awake(FIELDS[field_name](ndim=ndim, outputs=ndim, generator=generator))
    expected = network.value_and_jacobian(coordinates)
    found = network.to(device).value_and_jacobian(coordinates.to(device))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-4)


def test_values_and_jacobian_come_in_one_pass(
    field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator
) -> None:
    """Against a backward pass for each point and output."""
    network = awake(FIELDS[field_name](ndim=ndim, outputs=2, generator=generator)).double()
    assert isinstance(network, Field)
    sites = coordinates.double().reshape(2, 3, 4, ndim)
    values, slopes = value_and_jacobian(network, sites)
    torch.testing.assert_close(values, network(sites))
    expected = torch.stack([jacobian(network, point) for point in sites.reshape(-1, ndim)]).reshape(
        slopes.shape
    )
    torch.testing.assert_close(slopes, expected)
    assert expected.abs().amax((0, 1, 2, 4)).min() > 1e-3


def test_a_loss_on_the_jacobian_can_be_trained(
    field_name: str, ndim: int, coordinates: Tensor, generator: torch.Generator
) -> None:
    """Its gradient by the weights, against that of a Jacobian which torch differentiated twice."""
    network = awake(FIELDS[field_name](ndim=ndim, outputs=ndim, generator=generator)).double()

    def gradients(
        way: Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]],
    ) -> list[Tensor]:
        loss = way(network, coordinates.double())[1].square().sum()
        return [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(
                network.parameters(),
                torch.autograd.grad(loss, list(network.parameters()), allow_unused=True),
                strict=True,
            )
        ]

    for found, expected in zip(gradients(value_and_jacobian), gradients(reverse_mode), strict=True):
        # torch's softplus becomes a line where exp(-20) is left
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", [value_and_jacobian, forward_mode, reverse_mode])
def test_any_module_has_a_jacobian(
    way: Callable[[Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]],
    coordinates: Tensor,
    ndim: int,
) -> None:
    network = nn.Sequential(nn.Linear(ndim, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    assert not isinstance(network, Field)
    values, slopes = way(network, coordinates.double())
    torch.testing.assert_close(values, network(coordinates.double()))
    torch.testing.assert_close(
        slopes, torch.stack([jacobian(network, point) for point in coordinates.double()])
    )
    with torch.no_grad():
        assert not any(each.requires_grad for each in way(network, coordinates.double()))


def test_smooth_fields_have_second_derivatives(
    field_name: str, coordinates: Tensor, ndim: int, generator: torch.Generator
) -> None:
    network = awake(FIELDS[field_name](ndim=ndim, outputs=2, generator=generator)).double()
    assert torch.autograd.gradcheck(
        lambda points: network.value_and_jacobian(points)[1],
        coordinates[:3].double().requires_grad_(),
        eps=1e-6,
        atol=1e-4,
    )


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), Sine(7.0)], ids=str)
def test_the_slope_of_an_activation_is_its_derivative(activation: Activation) -> None:
    z = torch.linspace(-2, 2, 40, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(activation.slope(z), torch.autograd.grad(activation(z).sum(), z)[0])


# --- SIREN ----------------------------------------------------------------------------------------


def test_siren_is_its_formula(coordinates: Tensor, ndim: int, generator: torch.Generator) -> None:
    siren = awake(
        Siren(ndim, 3, width=8, depth=3, omega=7.0, omega_hidden=5.0, generator=generator)
    )
    hidden = coordinates
    for omega, layer in zip((7.0, 5.0, 5.0), siren.layers, strict=True):
        hidden = torch.sin(omega * (hidden @ layer.weight.T + layer.bias))
    torch.testing.assert_close(
        siren(coordinates), hidden @ siren.output.weight.T + siren.output.bias
    )


def test_siren_weights_are_spread_as_in_the_paper(ndim: int, generator: torch.Generator) -> None:
    siren = Siren(ndim, ndim, width=256, depth=3, omega_hidden=30.0, generator=generator)
    for layer, bound in zip(
        siren.layers, (1 / ndim, math.sqrt(6 / 256) / 30, math.sqrt(6 / 256) / 30), strict=True
    ):
        assert layer.weight.abs().max() <= bound
        # of a uniform distribution; 512 draws or more
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_siren_activations_keep_their_spread_through_the_layers(generator: torch.Generator) -> None:
    siren = Siren(3, 3, width=256, depth=5, generator=generator)
    hidden = 2 * torch.rand(2000, 3, generator=generator) - 1
    for activation, layer in zip(siren.activations, siren.layers, strict=True):
        hidden = activation(layer(hidden))
        assert 0.5 < hidden.std() < 0.8  # the arcsine distribution of the paper has 1 / sqrt(2)


def test_siren_can_be_differentiated_twice(
    coordinates: Tensor, ndim: int, generator: torch.Generator
) -> None:
    siren = awake(
        Siren(ndim, 2, width=6, depth=2, omega=3.0, omega_hidden=3.0, generator=generator)
    ).double()
    few = coordinates[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(siren, few)
    assert torch.autograd.gradgradcheck(siren, few)


def test_siren_takes_sites_of_any_shape(
    coordinates: Tensor, ndim: int, generator: torch.Generator
) -> None:
    siren = awake(Siren(ndim, 2, width=8, generator=generator))
    torch.testing.assert_close(
        siren(coordinates.reshape(2, 3, 4, ndim)).reshape(24, 2), siren(coordinates)
    )


# --- perceptrons ----------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_perceptron_is_its_formula(
    coordinates: Tensor, ndim: int, activation: str, generator: torch.Generator
) -> None:
    network = awake(
        Perceptron(ndim, 3, width=8, depth=2, activation=activation, generator=generator)
    )
    hidden = coordinates
    for layer in network.layers:
        hidden = layer(hidden)
        hidden = (
            hidden.clamp(min=0)
            if activation == "relu"
            else torch.log(1 + torch.exp(5 * hidden)) / 5
        )
    torch.testing.assert_close(network(coordinates), network.output(hidden))


def test_a_relu_field_has_no_curvature_and_a_softplus_field_has(
    coordinates: Tensor, ndim: int, generator: torch.Generator
) -> None:
    """Which is why a curvature penalty on the former is 0 whatever it does."""

    def curvature(activation: str) -> float:
        network = awake(
            Perceptron(
                ndim, 1, width=16, activation=activation, generator=torch.Generator().manual_seed(1)
            )
        )
        points = coordinates.clone().requires_grad_()
        slopes = network.value_and_jacobian(points)[1]
        found = torch.autograd.grad(slopes.sum(), points, allow_unused=True)[0]
        return 0.0 if found is None else float(found.abs().max())

    assert curvature("relu") == 0
    assert curvature("softplus") > 1e-3


def test_unknown_activations_are_refused(ndim: int) -> None:
    with pytest.raises(
        InputError, match="no activation is called 'tanh'; choose one of relu, softplus"
    ):
        Perceptron(ndim, ndim, activation="tanh")  # type: ignore[arg-type]


def test_fourier_features_are_waves_of_the_asked_spread(
    coordinates: Tensor, ndim: int, generator: torch.Generator
) -> None:
    network = awake(
        FourierPerceptron(ndim, 2, frequencies=500, spread=2.0, width=8, generator=generator)
    )
    cycles = network.matrix / (2 * math.pi)
    assert cycles.std().item() == pytest.approx(2.0, rel=0.1)  # of 1000 draws or more
    phase = 2 * math.pi * coordinates @ cycles.T
    torch.testing.assert_close(
        network(coordinates),
        network.perceptron(torch.cat([phase.sin(), phase.cos()], -1)),
        rtol=1e-3,
        atol=1e-4,
    )


# --- coarse and fine ------------------------------------------------------------------------------


def test_the_fine_branch_opens_as_the_limit_falls(
    coordinates: Tensor, ndim: int, generator: torch.Generator
) -> None:
    field = awake(CoarseFine(ndim, 2, width=32, generator=generator))
    assert isinstance(field, Annealed)
    whole = field.coarse(coordinates) + field.fine(coordinates)
    torch.testing.assert_close(field(coordinates), whole)
    shares = []
    for wavelength in (1e3, 2.0, 0.5, 0.2, 1e-3):
        field.anneal(wavelength)
        shares.append(float(field.window().mean()))
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert 0 < shares[2] < 1
    field.anneal(1e3)
    torch.testing.assert_close(field(coordinates), field.coarse(coordinates))
    torch.testing.assert_close(
        field.value_and_jacobian(coordinates)[1], field.coarse.value_and_jacobian(coordinates)[1]
    )


def test_the_window_passes_long_waves(ndim: int, generator: torch.Generator) -> None:
    field = CoarseFine(ndim, 2, width=64, omega_fine=40.0, generator=generator)
    field.anneal(0.5)
    wavelengths = 2 * math.pi / (40.0 * field.fine.layers[0].weight.detach().norm(dim=1))
    window = field.window()
    assert (window[wavelengths >= 0.5] == 1).all()
    assert (window[wavelengths <= 0.25] == 0).all()
    assert ((window > 0) & (window < 1)).any()
    assert (window[wavelengths.argsort()].diff() >= 0).all()


def test_an_annealed_field_keeps_its_limit(
    coordinates: Tensor, ndim: int, generator: torch.Generator
) -> None:
    field = awake(CoarseFine(ndim, 2, width=32, generator=generator))
    field.anneal(0.3)
    again = CoarseFine(ndim, 2, width=32)
    again.load_state_dict(field.state_dict())
    assert torch.equal(again(coordinates), field(coordinates))
    values, slopes = field.double().value_and_jacobian(coordinates.double())
    torch.testing.assert_close(
        slopes, torch.stack([jacobian(field, point) for point in coordinates.double()])
    )
    torch.testing.assert_close(values, field(coordinates.double()))
