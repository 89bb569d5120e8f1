"""Sinusoidal representation network (Sitzmann et al., NeurIPS 2020), the field of IDIR (Wolterink et al., MIDL 2022)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init


class Siren(nn.Module):
    """Cube coordinates ``[n, d]`` -> ``[n, outputs]`` through ``depth`` sine layers of ``width``; smooth, so every derivative exists.

    ``omega`` scales the first layer's frequencies (cycles over the cube), ``omega_hidden`` the others'. The linear output
    starts at zero: the field starts as the identity.
    """

    layers: nn.ModuleList
    output: nn.Module

    def __init__(self, ndim: int, outputs: int, width: int = 128, depth: int = 3, omega: float = 10.0, omega_hidden: float = 30.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.omegas = (omega,) + (omega_hidden,) * (depth - 1)
        hidden = [skip_init(nn.Linear, ndim if i == 0 else width, width) for i in range(depth)]
        output = skip_init(nn.Linear, width, outputs)
        with torch.no_grad():
            for i, layer in enumerate(hidden):
                bound = 1 / ndim if i == 0 else math.sqrt(6 / width) / omega_hidden
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.uniform_(-math.pi / self.omegas[i], math.pi / self.omegas[i], generator=generator)
            output.weight.zero_()
            output.bias.zero_()
        self.layers, self.output = nn.ModuleList(hidden), output

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        hidden = points
        for omega, layer in zip(self.omegas, self.layers, strict=True):
            hidden = torch.sin(omega * layer(hidden))
        return self.output(hidden)
