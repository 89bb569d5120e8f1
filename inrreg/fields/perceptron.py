"""A multilayer perceptron on the coordinates, and on random Fourier features of them (Tancik et
al., NeurIPS 2020).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from inrreg.core.errors import InputError
from inrreg.fields.siren import zero_layer
from inrreg.fields.tangents import ACTIVATIONS, Dual, Layered


class Perceptron(Layered):
    """``depth`` layers of ``width``, each with a ``relu`` or a ``softplus``, and a linear output
    that starts at zero.

    With ReLUs the field is linear in pieces: its second derivative is 0 wherever there is one.
    Either sees little detail; ``FourierPerceptron`` sees more.

    Raises:
        InputError: another activation.
    """

    def __init__(
        self,
        ndim: int,
        outputs: int,
        width: int = 128,
        depth: int = 3,
        activation: Literal["relu", "softplus"] = "softplus",
        generator: torch.Generator | None = None,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise InputError(
                f"no activation is called {activation!r}; choose one of {', '.join(ACTIVATIONS)}"
            )
        hidden = [
            rectified_layer(ndim if i == 0 else width, width, generator) for i in range(depth)
        ]
        super().__init__(hidden, [ACTIVATIONS[activation]] * depth, zero_layer(width, outputs))


class FourierPerceptron(nn.Module):
    """A perceptron that sees sin and cos of 2 pi B x, with ``frequencies`` rows of B drawn from a
    normal distribution of ``spread`` cycles over half the cube.

    ``spread`` is the detail it begins to see; smooth, where the activation is.
    """

    matrix: Tensor

    def __init__(
        self,
        ndim: int,
        outputs: int,
        frequencies: int = 64,
        spread: float = 1.0,
        width: int = 128,
        depth: int = 2,
        activation: Literal["relu", "softplus"] = "softplus",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer(
            "matrix", 2 * math.pi * spread * torch.randn(frequencies, ndim, generator=generator)
        )
        self.perceptron = Perceptron(2 * frequencies, outputs, width, depth, activation, generator)

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        return self.perceptron(waves(points, self.matrix))

    def value_and_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
        """Values and their derivatives by the cube coordinates."""
        return self.perceptron.dual(waves_dual(points, self.matrix)).result()


def waves(
    points: Float[Tensor, "*sites d"], matrix: Float[Tensor, "k d"]
) -> Float[Tensor, "*sites 2*k"]:
    """sin and cos of ``matrix`` @ point."""
    phase = points @ matrix.T
    return torch.cat([phase.sin(), phase.cos()], -1)


def waves_dual(points: Float[Tensor, "*sites d"], matrix: Float[Tensor, "k d"]) -> Dual:
    """``waves`` with their derivatives."""
    phase = points @ matrix.T
    sine, cosine = phase.sin(), phase.cos()
    columns = matrix.T.view(len(matrix.T), *[1] * (points.ndim - 1), -1)
    return Dual(torch.cat([sine, cosine], -1), torch.cat([cosine * columns, -sine * columns], -1))


def rectified_layer(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer before a ReLU or something like it (He et al., ICCV 2015), its kinks spread
    over the cube.
    """
    layer = skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0, math.sqrt(2 / inputs), generator=generator)
        layer.bias.uniform_(-1, 1, generator=generator)
    return layer
