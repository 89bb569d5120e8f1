"""The encodings of the library tiny-cuda-nn (Mueller, 2021) on a CUDA device; its Python package is
called tinycudann and is on no package index.
"""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import TransformError


def usable() -> tuple[bool, str]:
    """Whether tinycudann can be used here, and where it is or why not."""
    if find_spec("tinycudann") is None:
        return (
            False,
            "not installed; build its PyTorch extension from github.com/NVlabs/tiny-cuda-nn",
        )
    if not torch.cuda.is_available():
        return False, "installed, but it needs a CUDA device and torch finds none"
    try:
        found = importlib.import_module("tinycudann")
    except (
        ImportError,
        OSError,
        RuntimeError,
        NameError,
    ) as error:  # the last where it was built for other devices
        return (
            False,
            f"installed, but it does not load: {error}; build it for this device and this torch",
        )
    return True, f"found at {found.__file__}"


class TinyCudaEncoding(nn.Module):
    """Points of the unit cube ``[*sites, d]`` -> features, by the library; ``params`` in its
    layout, kept in single precision whatever ``precision`` it computes in.

    Differentiable by the points twice, backwards only.

    Raises:
        TransformError: the library cannot be used here, or it lays out another number of
            parameters.
    """

    def __init__(
        self,
        ndim: int,
        config: Mapping[str, Any],
        precision: Literal["float32", "float16"],
        params: nn.Parameter,
    ) -> None:
        super().__init__()
        found, reason = usable()
        if not found:
            raise TransformError(
                f"backend='tinycudann' was asked for, but tinycudann is {reason}; or take"
                " backend='torch'"
            )
        native = importlib.import_module("tinycudann").Encoding(
            ndim, dict(config), dtype=getattr(torch, precision)
        )
        if native.params.shape != params.shape:
            raise TransformError(
                f"this tinycudann lays out {tuple(native.params.shape)} parameters for"
                f" {dict(config)}, not {tuple(params.shape)}; it is of a version that is not known"
                " here"
            )
        self.params = params
        self._native = (native,)  # in a tuple, so that its parameters are not counted a second time

    def forward(self, points: Float[Tensor, "*sites d"]) -> Float[Tensor, "*sites channels"]:
        if not points.is_cuda:
            raise TransformError(
                "tinycudann computes on CUDA devices only; move the field and the points there, or"
                " take backend='torch'"
            )
        native = self._native[0]
        native.params = self.params
        return (
            native(_Contiguous.apply(points.reshape(-1, points.shape[-1])))
            .to(points.dtype)
            .reshape(*points.shape[:-1], -1)
        )


class _Contiguous(torch.autograd.Function):
    """The identity, whose derivatives of every order are contiguous: the library refuses others."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        passed: Tensor = _Contiguous.apply(gradient)
        return passed
