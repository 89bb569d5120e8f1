"""A slow and a quick SIREN side by side, the quick one let in by and by: detail waits until the
large motion is found.

Two branches as lung fields have them (Gebauer et al., MIDL 2026); the raised-cosine window over
frequencies is that of BARF (Lin et al., ICCV 2021).
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.fields.siren import Siren
from inrreg.fields.tangents import Dual, linear_dual, through, through_dual


@runtime_checkable
class Annealed(Protocol):
    """A field whose bandwidth is raised from outside, level by level."""

    def anneal(self, wavelength: float) -> None:
        """Use waves of ``wavelength`` (cube coordinates) and longer in full from now on, those
        shorter than half of it not at all.
        """
        ...


class CoarseFine(nn.Module):
    """coarse(x) + share * fine(x): ``coarse`` begins at ``omega_coarse``, ``fine`` at
    ``omega_fine``.

    ``anneal(wavelength)`` opens the first layer of ``fine`` for the neurons whose waves are long
    enough, and ``share`` is their part of all: 0 leaves the coarse branch alone. A new field has
    everything open. The limit is saved with the weights; no gradient goes through the window.
    """

    limit: Tensor

    def __init__(
        self,
        ndim: int,
        outputs: int,
        width: int = 128,
        depth: int = 3,
        omega_coarse: float = 10.0,
        omega_fine: float = 40.0,
        omega_hidden: float = 30.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.coarse = Siren(ndim, outputs, width, depth, omega_coarse, omega_hidden, generator)
        self.fine = Siren(ndim, outputs, width, depth, omega_fine, omega_hidden, generator)
        self.register_buffer("limit", torch.zeros(()))

    def anneal(self, wavelength: float) -> None:
        """See ``Annealed``."""
        self.limit.fill_(wavelength)

    def window(self) -> Float[Tensor, " width"]:
        """How far each neuron of the fine branch's first layer is open, 0 ...

        1: a raised cosine over its wavelength, from half the limit to the limit.
        """
        with torch.no_grad():
            frequency = self.fine.activations[0].omega * self.fine.layers[0].get_parameter(
                "weight"
            ).norm(dim=1)
            excess = (frequency * self.limit / (2 * torch.pi) - 1).clamp(0, 1)
            return (1 + torch.cos(torch.pi * excess)) / 2

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        window = self.window()
        coarse = self.coarse(points)
        fine = self.fine
        if not window.any():
            return coarse
        first = window * through(fine.layers[:1], fine.activations[:1], points)
        return coarse + window.mean() * fine.output(
            through(fine.layers[1:], fine.activations[1:], first)
        )

    def value_and_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
        """Values and their derivatives by the cube coordinates."""
        window = self.window()
        coarse = self.coarse.dual(Dual.at(points))
        fine = self.fine
        if not window.any():
            return coarse.result()
        first = through_dual(fine.layers[:1], fine.activations[:1], Dual.at(points)).scaled(window)
        return coarse.plus(
            linear_dual(
                fine.output, through_dual(fine.layers[1:], fine.activations[1:], first)
            ).scaled(window.mean())
        ).result()
