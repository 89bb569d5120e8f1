"""NePhi (Tian et al., ECCV 2024): two sinusoidal decoders, there and back, that share the codes of
one pair of images.

A code for the whole pair and a small lattice of local ones say what a decoder draws, by opening and
closing the neurons of a SIREN point by point. Fitted to one pair, the codes are free and the
decoders with them; the same decoders can be driven by codes that come from elsewhere. Local codes
are combined by cubic B-splines, not linearly as in the paper, so that the field is twice
continuously differentiable; its gates have no skip connection.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import InputError
from inrreg.fields.perceptron import waves, waves_dual
from inrreg.fields.siren import sine_layer, zero_layer
from inrreg.fields.tangents import Dual, Sine, joined, linear_dual
from inrreg.ops.separable import taps


@runtime_checkable
class TwoWay(Protocol):
    """A field that holds a second one, for the way back."""

    def fitted_inverse(self) -> nn.Module:
        """The field of the way back, on the same cube.

        It shares parameters with this one: copy it before you move or change it.
        """
        ...


class Codes(NamedTuple):
    """What the decoders know of a pair: ``whole`` ``[g]`` and ``local`` ``[c, *lattice]``, B-spline
    coefficients from one corner of the cube to the other.
    """

    whole: Tensor
    local: Tensor

    def at(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites codes"]:
        """The whole code and the local one at cube coordinates; outside the cube that of its
        border.
        """
        return self._read(
            _products(
                [_spline_weights(points[..., a], n) for a, n in enumerate(self.local.shape[1:])]
            )
        )

    def dual(self, points: Float[Tensor, "*sites d"]) -> Dual:
        """``at`` with its derivatives by the coordinates."""
        shape = self.local.shape[1:]
        weights, slopes = (
            [_spline_weights(points[..., a], n, derivative) for a, n in enumerate(shape)]
            for derivative in (0, 1)
        )
        along = [
            _products([*weights[:a], slopes[a], *weights[a + 1 :]]) @ self.local.flatten(1).T
            for a in range(len(shape))
        ]
        return Dual(self._read(_products(weights)), F.pad(torch.stack(along), (len(self.whole), 0)))

    def _read(self, weights: Float[Tensor, "*sites knots"]) -> Float[Tensor, "*sites codes"]:
        return torch.cat(
            [self.whole.expand(*weights.shape[:-1], -1), weights @ self.local.flatten(1).T], -1
        )


def _spline_weights(
    x: Float[Tensor, "*sites"], n: int, derivative: int = 0
) -> Float[Tensor, "*sites n"]:
    """What each of ``n`` coefficients from -1 to 1 counts at x, or the derivative of that by x (0
    from the ends on): dense, as there are few and products of matrices are quick.
    """
    index, weight = (
        torch.stack(of_taps, -1) for of_taps in taps((x + 1) / 2 * (n - 1), n, 3, derivative)
    )
    weights = torch.zeros(*x.shape, n, dtype=x.dtype, device=x.device).scatter_add(
        -1, index, weight
    )
    return weights if derivative == 0 else (n - 1) / 2 * weights


def _products(factors: Sequence[Float[Tensor, "*sites _"]]) -> Float[Tensor, "*sites knots"]:
    """The products of one weight an axis, over all combinations, the last axis fastest."""
    return reduce(
        lambda product, factor: (product[..., :, None] * factor[..., None, :]).flatten(-2), factors
    )


class GatedSiren(nn.Module):
    """``depth`` sine layers on Fourier features of the coordinates, each multiplied by a gate: the
    layers of a second SIREN that sees the codes and the same features.

    The linear output starts at zero.
    """

    matrix: Tensor

    def __init__(
        self,
        ndim: int,
        outputs: int,
        codes: int,
        width: int,
        depth: int,
        frequencies: int,
        spread: float,
        omega: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.register_buffer(
            "matrix", 2 * math.pi * spread * torch.randn(frequencies, ndim, generator=generator)
        )
        self.activation = Sine(omega)
        self.layers, self.gates = (
            _sine_layers(inputs, width, depth, omega, generator)
            for inputs in (2 * frequencies, codes + 2 * frequencies)
        )
        self.output = zero_layer(width, outputs)

    def forward(
        self, codes: Float[Tensor, "*sites codes"], points: Float[Tensor, "*sites d"]
    ) -> Float[Tensor, "*sites outputs"]:
        hidden = waves(points, self.matrix)
        gate = torch.cat([codes, hidden], -1)
        for layer, gate_layer in zip(self.layers, self.gates, strict=True):
            gate = self.activation(gate_layer(gate))
            hidden = self.activation(layer(hidden)) * gate
        return self.output(hidden)

    def dual(self, codes: Dual, points: Float[Tensor, "*sites d"]) -> Dual:
        """``forward`` with its derivatives, for codes with derivatives."""
        hidden = waves_dual(points, self.matrix)
        gate = joined(codes, hidden)
        for layer, gate_layer in zip(self.layers, self.gates, strict=True):
            gate = linear_dual(gate_layer, gate).mapped(self.activation)
            hidden = linear_dual(layer, hidden).mapped(self.activation).times(gate)
        return linear_dual(self.output, hidden)


def _sine_layers(
    inputs: int, width: int, depth: int, omega: float, generator: torch.Generator | None
) -> nn.ModuleList:
    return nn.ModuleList(
        [sine_layer(inputs if i == 0 else width, width, omega, generator) for i in range(depth)]
    )


class Decoded(nn.Module):
    """Cube coordinates ``[*sites, d]`` -> ``[*sites, outputs]`` by one decoder, from codes that are
    parameters elsewhere or were predicted.
    """

    whole: Tensor
    local: Tensor

    def __init__(self, decoder: GatedSiren, codes: Codes) -> None:
        super().__init__()
        self.decoder = decoder
        self.whole, self.local = codes

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        return self.decoder(Codes(self.whole, self.local).at(points), points)

    def value_and_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
        """Values and their derivatives by the cube coordinates."""
        return self.decoder.dual(Codes(self.whole, self.local).dual(points), points).result()


class DecodedWays(Decoded):
    """``Decoded`` by the decoder of the way there, with the way back beside it."""

    def __init__(self, there: GatedSiren, back: GatedSiren, codes: Codes) -> None:
        super().__init__(there, codes)
        self.back = back

    def fitted_inverse(self) -> Decoded:
        """The way back; see ``TwoWay``."""
        return Decoded(self.back, Codes(self.whole, self.local))


class NePhi(nn.Module):
    """Cube coordinates ``[*sites, d]`` -> ``[*sites, outputs]`` by the decoder of the way there;
    ``fitted_inverse()`` is the way back, from the same codes.

    ``lattice`` local codes stand along each axis of the cube. Nothing but a penalty makes the one
    the inverse of the other (``InverseConsistency``, ``GradICON``). All codes and both outputs
    start at zero: either way starts as the identity. The frequencies are lower than in the paper
    and the layers fewer, which came closer to the motion of a small phantom in as many steps.

    Raises:
        InputError: a lattice of fewer than 2 codes an axis, or no code at all.
    """

    def __init__(
        self,
        ndim: int,
        outputs: int,
        width: int = 128,
        depth: int = 2,
        whole_codes: int = 32,
        local_codes: int = 32,
        lattice: int = 6,
        frequencies: int = 64,
        spread: float = 0.3,
        omega: float = 5.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if lattice < 2 or min(whole_codes, local_codes) < 1:
            raise InputError(
                "NePhi needs 2 local codes an axis or more, and a number in the whole code and in"
                f" each local one; got {lattice}, {whole_codes} and {local_codes}"
            )
        self.whole = nn.Parameter(torch.zeros(whole_codes))
        self.local = nn.Parameter(torch.zeros(local_codes, *[lattice] * ndim))
        self.there, self.back = (
            GatedSiren(
                ndim,
                outputs,
                whole_codes + local_codes,
                width,
                depth,
                frequencies,
                spread,
                omega,
                generator,
            )
            for _ in range(2)
        )

    @property
    def codes(self) -> Codes:
        """Those of the pair it is fitted to."""
        return Codes(self.whole, self.local)

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        return Decoded(self.there, self.codes)(points)

    def value_and_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
        """Values and their derivatives by the cube coordinates."""
        return Decoded(self.there, self.codes).value_and_jacobian(points)

    def fitted_inverse(self) -> Decoded:
        """The way back; see ``TwoWay``."""
        return Decoded(self.back, self.codes)

    def drawn(self, codes: Codes) -> DecodedWays:
        """Both ways of the decoders for other ``codes``, to which their gradient goes."""
        return DecodedWays(self.there, self.back, codes)
