"""Values and first derivatives carried through a network in one pass: forward-mode differentiation,
a tangent for each coordinate.

A layer of c x c weights costs 1 + d products instead of one, and nothing is differentiated twice:
the gradient of a penalty on the Jacobian is one backward pass.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import RLock
from typing import NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_FORWARD = RLock()


@runtime_checkable
class Field(Protocol):
    """A coordinate network: cube coordinates ``[*sites, d]`` -> values ``[*sites, outputs]``, and
    both values and Jacobian ``[*sites, outputs, d]`` at once.
    """

    def __call__(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]: ...

    def value_and_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]: ...


class Dual(NamedTuple):
    """``value`` ``[*sites, c]`` and ``tangents`` ``[d, *sites, c]``, its derivatives by each
    coordinate; sites are of size 1 where a derivative is the same everywhere.
    """

    value: Tensor
    tangents: Tensor

    @classmethod
    def at(cls, points: Float[Tensor, "*sites d"]) -> "Dual":
        """The coordinates themselves."""
        d = points.shape[-1]
        return cls(
            points,
            torch.eye(d, dtype=points.dtype, device=points.device).view(
                d, *[1] * (points.ndim - 1), d
            ),
        )

    def scaled(self, factor: Tensor | float) -> "Dual":
        """Times something that does not depend on the coordinates."""
        return Dual(factor * self.value, factor * self.tangents)

    def plus(self, other: "Dual") -> "Dual":
        return Dual(self.value + other.value, self.tangents + other.tangents)

    def times(self, other: "Dual") -> "Dual":
        """Element by element: the product rule."""
        return Dual(
            self.value * other.value, self.tangents * other.value + self.value * other.tangents
        )

    def mapped(self, activation: "Activation") -> "Dual":
        """Through an activation: the chain rule."""
        return Dual(activation(self.value), activation.slope(self.value) * self.tangents)

    def result(self) -> tuple[Float[Tensor, "*sites c"], Float[Tensor, "*sites c d"]]:
        """Values and Jacobian as ``Field`` gives them."""
        return self.value, self.tangents.expand(-1, *self.value.shape).movedim(0, -1)


class Activation(Protocol):
    """A function of one number with its derivative."""

    def __call__(self, z: Tensor) -> Tensor: ...

    def slope(self, z: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Sine:
    """sin(omega z)."""

    omega: float

    def __call__(self, z: Tensor) -> Tensor:
        return torch.sin(self.omega * z)

    def slope(self, z: Tensor) -> Tensor:
        return self.omega * torch.cos(self.omega * z)


@dataclass(frozen=True)
class ReLU:
    """max(0, z): no second derivative, so a curvature penalty sees nothing between its kinks."""

    def __call__(self, z: Tensor) -> Tensor:
        return torch.relu(z)

    def slope(self, z: Tensor) -> Tensor:
        return (z > 0).to(z.dtype)


@dataclass(frozen=True)
class Softplus:
    """log(1 + exp(sharpness z)) / sharpness: a ReLU with a round corner."""

    sharpness: float = 5.0

    def __call__(self, z: Tensor) -> Tensor:
        return F.softplus(z, beta=self.sharpness)

    def slope(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.sharpness * z)


ACTIVATIONS: dict[str, Activation] = {"relu": ReLU(), "softplus": Softplus()}


def through(
    layers: Iterable[nn.Module], activations: Iterable[Activation], value: Float[Tensor, "*sites c"]
) -> Float[Tensor, "*sites k"]:
    """``value`` through linear layers, each followed by its activation."""
    for layer, activation in zip(layers, activations, strict=True):
        value = activation(layer(value))
    return value


def through_dual(
    layers: Iterable[nn.Module], activations: Iterable[Activation], dual: Dual
) -> Dual:
    """What ``through`` does, with the derivatives."""
    for layer, activation in zip(layers, activations, strict=True):
        dual = linear_dual(layer, dual).mapped(activation)
    return dual


def linear_dual(layer: nn.Module, dual: Dual) -> Dual:
    """``dual`` through one linear layer."""
    return Dual(layer(dual.value), F.linear(dual.tangents, cast(nn.Linear, layer).weight))


class Layered(nn.Module):
    """Cube coordinates ``[*sites, d]`` -> ``[*sites, outputs]`` through linear layers, each
    followed by its activation, and a linear output.
    """

    def __init__(
        self, layers: Iterable[nn.Module], activations: Iterable[Activation], output: nn.Module
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.activations = tuple(activations)
        self.output = output

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites outputs"]:
        return self.output(through(self.layers, self.activations, points))

    def value_and_jacobian(
        self, points: Float[Tensor, "*sites d"]
    ) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
        """Values and their derivatives by the cube coordinates."""
        return self.dual(Dual.at(points)).result()

    def dual(self, dual: Dual) -> Dual:
        """Its output for an input with derivatives: what an encoding in front of it asks."""
        return linear_dual(self.output, through_dual(self.layers, self.activations, dual))


def joined(*duals: Dual) -> Dual:
    """One after the other along the last axis; all of the same sites."""
    return Dual(
        torch.cat([dual.value for dual in duals], -1),
        torch.cat([dual.tangents for dual in duals], -1),
    )


def value_and_jacobian(
    network: nn.Module, points: Float[Tensor, "*sites d"]
) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
    """Values and Jacobian of any network: its own way where it is a ``Field``, else forward-mode
    differentiation, a pass for each coordinate.
    """
    if isinstance(network, Field):
        return network.value_and_jacobian(points)
    return forward_mode(network, points)


def forward_mode(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "*sites d"]
) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
    """Values and Jacobian of anything that torch can differentiate forwards, in one thread at a
    time: torch counts the levels of this in one place for all of them.
    """
    directions = torch.eye(points.shape[-1], dtype=points.dtype, device=points.device)
    with _FORWARD:
        passes = [
            torch.func.jvp(function, (points,), (direction.expand_as(points),))
            for direction in directions
        ]
    return passes[0][0], torch.stack([each[1] for each in passes], -1)


def reverse_mode(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "*sites d"]
) -> tuple[Float[Tensor, "*sites outputs"], Float[Tensor, "*sites outputs d"]]:
    """Values and Jacobian by a backward pass for each output, for what torch cannot differentiate
    forwards; recorded where gradients are.
    """
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        asked = points if points.requires_grad else points.detach().requires_grad_()
        values = function(asked)
        rows = [
            torch.autograd.grad(
                values[..., i].sum(), asked, create_graph=recorded, retain_graph=True
            )[0]
            for i in range(values.shape[-1])
        ]
    jacobian = torch.stack(rows, -2)
    return (values, jacobian) if recorded else (values.detach(), jacobian.detach())
