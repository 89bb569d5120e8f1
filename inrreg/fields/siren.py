"""Sinusoidal representation network (Sitzmann et al., NeurIPS 2020), the field of IDIR (Wolterink
et al., MIDL 2022).
"""

import math

import torch
from torch import nn
from torch.nn.utils import skip_init

from inrreg.fields.tangents import Layered, Sine


class Siren(Layered):
    """Cube coordinates ``[*sites, d]`` -> ``[*sites, outputs]`` through ``depth`` sine layers of
    ``width``; smooth, so every derivative exists.

    ``omega`` scales the first layer's frequencies (cycles over the cube), ``omega_hidden`` the
    others'. The linear output starts at zero: the field starts as the identity.
    """

    activations: tuple[Sine, ...]

    def __init__(
        self,
        ndim: int,
        outputs: int,
        width: int = 128,
        depth: int = 3,
        omega: float = 10.0,
        omega_hidden: float = 30.0,
        generator: torch.Generator | None = None,
    ) -> None:
        activations = (Sine(omega),) + (Sine(omega_hidden),) * (depth - 1)
        hidden = [
            sine_layer(ndim if i == 0 else width, width, activation.omega, generator, first=i == 0)
            for i, activation in enumerate(activations)
        ]
        super().__init__(hidden, activations, zero_layer(width, outputs))


def sine_layer(
    inputs: int, outputs: int, omega: float, generator: torch.Generator | None, first: bool = False
) -> nn.Linear:
    """A linear layer before sin(omega z), its weights uniform within 1 / inputs (``first``) or
    sqrt(6 / inputs) / omega, its phases over a whole period.
    """
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
