"""Sinusoidal representation network (Sitzmann et al., NeurIPS 2020), the field of IDIR (Wolterink et al., MIDL 2022)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from inrreg.fields.tangents import Dual, Sine, linear_dual, through, through_dual


class Siren(nn.Module):
    """Cube coordinates ``[*sites, d]`` -> ``[*sites, outputs]`` through ``depth`` sine layers of ``width``; smooth, so every derivative exists.

    ``omega`` scales the first layer's frequencies (cycles over the cube), ``omega_hidden`` the others'. The linear output
    starts at zero: the field starts as the identity.
    """

    layers: nn.ModuleList
    output: nn.Module

    def __init__(self, ndim: int, outputs: int, width: int = 128, depth: int = 3, omega: float = 10.0, omega_hidden: float = 30.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.activations = (Sine(omega),) + (Sine(omega_hidden),) * (depth - 1)
        hidden = [sine_layer(ndim if i == 0 else width, width, activation.omega, generator, first=i == 0) for i, activation in enumerate(self.activations)]
        self.layers, self.output = nn.ModuleList(hidden), zero_layer(width, outputs)

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        return self.output(through(self.layers, self.activations, points))

    def value_and_jacobian(self, points: Float[Tensor, "*sites d"]) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
        """Values and their derivatives by the cube coordinates."""
        return self.dual(Dual.at(points)).result()

    def dual(self, dual: Dual) -> Dual:
        """Its output for an input with derivatives."""
        return linear_dual(self.output, through_dual(self.layers, self.activations, dual))


def sine_layer(inputs: int, outputs: int, omega: float, generator: torch.Generator | None, first: bool = False) -> nn.Linear:
    """A linear layer before sin(omega z), its weights uniform within 1 / inputs (``first``) or sqrt(6 / inputs) / omega, its phases over a whole period."""
    layer = skip_init(nn.Linear, inputs, outputs)
    bound = 1 / inputs if first else math.sqrt(6 / inputs) / omega
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-math.pi / omega, math.pi / omega, generator=generator)
    return layer


def zero_layer(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose output starts at zero."""
    layer = skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    return layer
