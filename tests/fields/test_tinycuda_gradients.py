"""Gradients that reach tinycudann are contiguous: its second derivative refuses others."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inrreg.fields import tinycuda


class _Square(torch.autograd.Function):
    """x -> x^2 per entry, with the library's check on every gradient."""

    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:
        ctx.save_for_backward(points)
        return points.square()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (points,) = ctx.saved_tensors
        slope: Tensor = _SquareBackward.apply(gradient.contiguous(), points)
        return slope


class _SquareBackward(torch.autograd.Function):
    """The first derivative; its own gradient must be contiguous."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, points: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, points)
        return 2 * gradient * points

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> tuple[Tensor, Tensor]:
        if not second.is_contiguous():
            raise RuntimeError("dL_ddLdinput must be contiguous")
        gradient, points = ctx.saved_tensors
        return 2 * second * points, 2 * second * gradient


class StandIn(nn.Module):
    """What ``tinycudann.Encoding`` is to the package, without a device."""

    def __init__(self, ndim: int, config: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.params = nn.Parameter(torch.zeros(4))

    def forward(self, points: Tensor) -> Tensor:
        squares: Tensor = _Square.apply(points)
        return squares


def derivative_of_a_slope(values: Tensor, points: Tensor) -> Tensor:
    """The gradient of one column of the slope, laid out by entries, as penalties take it."""
    (slope,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    by_entries = torch.ones(3, len(points)).T  # strides (1, n)
    (second,) = torch.autograd.grad(slope, points, by_entries)
    return second


def test_the_stand_in_refuses_what_the_library_refuses() -> None:
    points = torch.rand(256, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="contiguous"):
        derivative_of_a_slope(_Square.apply(points), points)


def test_the_encoding_hands_over_contiguous_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tinycuda, "usable", lambda: (True, "a stand-in"))
    monkeypatch.setattr(
        tinycuda.importlib, "import_module", lambda name: SimpleNamespace(Encoding=StandIn)
    )
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda self: True))
    encoding = tinycuda.TinyCudaEncoding(3, {}, "float32", nn.Parameter(torch.zeros(4)))
    points = torch.rand(256, 3, requires_grad=True)
    second = derivative_of_a_slope(encoding(points), points)
    torch.testing.assert_close(second, torch.full_like(second, 2.0))
