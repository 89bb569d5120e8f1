"""Piecewise smoothness: motion that slides (Vishnevskiy et al., IEEE TMI 2017)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.settings_checks import check_above_zero, check_not_negative
from inrreg.objective.step import Step
from inrreg.penalties.entries import as_jacobian, compiles, entries


@dataclass(frozen=True)
class TotalVariation:
    """Mean over sites of sqrt(|Du|^2 + smoothing^2) - smoothing, isotropic over components and
    axes, mm per mm.

    A jump costs its height whatever its steepness, so organs may slide along each other where a
    quadratic penalty smears.
    """

    weight: float = 1.0
    smoothing: float = 0.05
    name: str = "total_variation"

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")
        check_above_zero(self, "smoothing")

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        if compiles(step.jacobian):
            return _InOneWalk.apply(step.jacobian, self.smoothing)
        d = step.jacobian.shape[-1]
        gradient = step.jacobian - torch.eye(
            d, dtype=step.jacobian.dtype, device=step.jacobian.device
        )
        return (
            torch.sqrt(gradient.square().sum((-1, -2)) + self.smoothing**2) - self.smoothing
        ).mean()


class _InOneWalk(torch.autograd.Function):
    """The mean and its derivative by compiled loops."""

    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, smoothing: float) -> Tensor:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.penalties import SITES, total_variation

        parts = entries(jacobian)
        flat = parts.flatten(2).flatten(0, 1).numpy()
        ctx.save_for_backward(parts)
        ctx.offset, ctx.smoothing = (
            np.eye(parts.shape[0], dtype=flat.dtype).ravel(),
            np.array([smoothing], flat.dtype),
        )
        sums = np.empty(-(-flat.shape[1] // SITES))
        in_parallel(total_variation, len(sums), flat, ctx.offset, ctx.smoothing, sums)
        return jacobian.new_tensor(sums.sum() / flat.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        from inrreg.ops.loops import in_parallel
        from inrreg.ops.loops.penalties import SITES, variation_back

        (parts,) = ctx.saved_tensors
        out = torch.empty_like(parts)
        given, flat = (each.flatten(2).flatten(0, 1).numpy() for each in (parts, out))
        factor = np.array([float(gradient) / given.shape[1]], given.dtype)
        in_parallel(
            variation_back,
            -(-given.shape[1] // SITES),
            given,
            ctx.offset,
            ctx.smoothing,
            factor,
            flat,
        )
        return as_jacobian(out), None
