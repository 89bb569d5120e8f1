"""The compiled form of ``total_variation``: one walk for the value, one for the derivative."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from inrreg.ops.jacobian_entries import as_jacobian, entries
from inrreg.ops.loops import compiled, in_parallel

SITES = 1024
"""Sites that are worked on together."""


@compiled
def lengths(
    first: int, stop: int, entries: NDArray, offset: NDArray, smoothing: float, out: NDArray
) -> None:
    """out[k] = sqrt(sum over e of (entries[e, first + k] - offset[e])^2 + smoothing^2), for the
    sites up to ``stop``.
    """
    for k in range(stop - first):
        out[k] = smoothing * smoothing
    for e in range(len(entries)):
        entry, less = entries[e, first:stop], offset[e]
        for k in range(len(entry)):
            out[k] += (entry[k] - less) ** 2
    for k in range(stop - first):
        out[k] = np.sqrt(out[k])


@compiled
def variation_sums(
    start: int, stop: int, entries: NDArray, offset: NDArray, smoothing: NDArray, sums: NDArray
) -> None:
    """sums[part] = sum of ``lengths`` less ``smoothing`` over the part's sites."""
    length = np.empty(SITES, entries.dtype)
    for part in range(start, stop):
        first, end = part * SITES, min((part + 1) * SITES, entries.shape[1])
        lengths(first, end, entries, offset, smoothing[0], length)
        total = entries.dtype.type(0)
        for k in range(end - first):
            total += length[k] - smoothing[0]
        sums[part] = total


@compiled
def variation_gradient(
    start: int,
    stop: int,
    entries: NDArray,
    offset: NDArray,
    smoothing: NDArray,
    factor: NDArray,
    out: NDArray,
) -> None:
    """The derivative of ``factor`` times the sum of ``variation_sums``."""
    length = np.empty(SITES, entries.dtype)
    for part in range(start, stop):
        first, end = part * SITES, min((part + 1) * SITES, entries.shape[1])
        lengths(first, end, entries, offset, smoothing[0], length)
        for k in range(end - first):
            length[k] = factor[0] / length[k]
        for e in range(len(entries)):
            entry, target, less = entries[e, first:end], out[e, first:end], offset[e]
            for k in range(len(entry)):
                target[k] = length[k] * (entry[k] - less)


class _TotalVariation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, jacobian: Tensor, smoothing: float) -> Tensor:
        parts = entries(jacobian)
        flat = parts.flatten(2).flatten(0, 1).numpy()
        ctx.save_for_backward(parts)
        ctx.offset = np.eye(parts.shape[0], dtype=flat.dtype).ravel()
        ctx.smoothing = np.array([smoothing], flat.dtype)
        sums = np.empty(-(-flat.shape[1] // SITES))
        in_parallel(variation_sums, len(sums), flat, ctx.offset, ctx.smoothing, sums)
        return jacobian.new_tensor(sums.sum() / flat.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (parts,) = ctx.saved_tensors
        out = torch.empty_like(parts)
        given, flat = (each.flatten(2).flatten(0, 1).numpy() for each in (parts, out))
        factor = np.array([float(gradient) / given.shape[1]], given.dtype)
        in_parallel(
            variation_gradient,
            -(-given.shape[1] // SITES),
            given,
            ctx.offset,
            ctx.smoothing,
            factor,
            flat,
        )
        return as_jacobian(out), None


def total_variation(
    jacobian: Float[Tensor, "b *lattice d d"], smoothing: float
) -> Float[Tensor, ""]:
    """See ``inrreg.ops.total_variation.total_variation``; differentiable once."""
    value: Tensor = _TotalVariation.apply(jacobian, smoothing)
    return value
